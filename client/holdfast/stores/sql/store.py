"""The store on a SQL database: connections, threads, and what an error means.

Rules:
* Every call is one short transaction on a thread of a small pool; nobody who waits has a connection, let alone a transaction.
* No connection: `NotSent`. A transaction that fails before its COMMIT is rolled back by the database: it took no effect, so it is
  begun again (a conflict with another), refused as `overloaded` (locked, a deadlock), or `NotSent`. A COMMIT that fails: nobody
  knows, `NoAnswer`.
* Never advisory locks of a session: a pool of connections in front of the database would hand them to somebody else.
* Renewals have a thread of their own, so that acquires never stand in their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from holdfast.stores.base import Ask, Granted, LockView, Refusal, overloaded
from holdfast.stores.sql import schema, transactions
from holdfast.stores.threads import Threads
from holdfast.stores.waiting import Queued, Wakes, decided
from holdfast.transport import NoAnswer, NotSent

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Connection

    from holdfast.clock import Clock

log = logging.getLogger("holdfast")

T = TypeVar("T")

THREADS: Final = {"postgresql": 8, "sqlite": 2}
"""Per client, besides the one for renewals. A SQLite file has one writer at a time anyway."""
CONNECT_SECONDS: Final = 2
LOCK_SECONDS: Final = 3
"""How long a transaction waits for another; they are short, so this is an accident."""
STATEMENT_SECONDS: Final = 5
SILENCE_SECONDS: Final = 5
"""A server that does not acknowledge what was sent: the operating system ends the connection."""
CLOSE_SECONDS: Final = 2.0
"""For threads that are in the middle of a transaction; those that hang are left to die with the process."""
READS: Final = "holdfast_reads"
"""An execution option of ours: this transaction only reads."""
TRIES: Final = 3
"""Two clients that insert the same row: the second begins again, once. More is an accident."""
TRANSIENT: Final = frozenset({"40001", "40P01", "55P03", "57014"})
"""PostgreSQL: serialization failure, deadlock, lock not available, statement canceled. All are rolled back."""


class SqlStore:
    """One client's way to the tables."""

    def __init__(self, url: str, shown: str, clock: Clock, draw: Callable[[], float]) -> None:
        """Connects to nothing yet."""
        address = make_url(url)
        self.name: str = address.get_backend_name()
        self._shown = shown
        self._clock = clock
        self._draw = draw
        self._engine = _engine(address, THREADS[self.name] + 1)
        self._work = Threads("store", THREADS[self.name], self._pool_ended)
        self._renewals = Threads("renew", 1, self._pool_ended)
        self._pools_left = 2
        self._pools = threading.Lock()
        self._tell_end: Callable[[], object] = lambda: None
        self._has_tables = False
        self._making_tables = threading.Lock()
        self._wakes = Wakes()
        self._listener = _listener(address, self._wakes, clock)

    async def open_session(self, session: str, ttl_ms: int, owner: str | None) -> int:
        work = partial(transactions.open_session, session=session, ttl_ms=ttl_ms, owner=owner)
        left_ms = await self._renewals.run(partial(self._decide, work))
        await self._renewals.run(self._sweep)
        return left_ms

    async def renew(self, session: str) -> int:
        work = partial(transactions.renew, session=session)
        return await self._renewals.run(partial(self._decide, work))

    async def close(self, session: str) -> list[int]:
        return await self._run(partial(transactions.close, session=session))

    async def acquire(self, ask: Ask) -> Granted:
        async def look(first: bool) -> Granted | Queued:
            if not first:
                waits = await self._read(partial(transactions.peek, ask=ask))
                if waits is not None:
                    return waits
            outcome = await self._run(partial(transactions.acquire, ask=ask, first=first))
            if isinstance(outcome, Refusal):
                raise outcome
            return outcome

        return await decided(
            ask,
            look,
            wakes=self._wakes,
            ready=self._ready,
            clock=self._clock,
            draw=self._draw,
        )

    async def release(self, session: str, token: int) -> None:
        await self._run(partial(transactions.release, session=session, token=token))

    async def cancel(self, session: str, request_id: int) -> int | None:
        return await self._run(partial(transactions.cancel, session=session, request_id=request_id))

    async def read(self, key: str) -> LockView:
        return (await self._read(partial(transactions.views, keys=[key])))[0]

    async def locks(self, prefix: str, after: str | None, limit: int) -> list[LockView]:
        def both(connection: Connection) -> list[LockView]:
            keys = transactions.keys_in_use(connection, prefix, after, limit)
            return transactions.views(connection, keys) if keys else []

        return await self._read(both)

    async def time_ms(self) -> int:
        return await self._read(transactions.clock)

    async def aclose(self) -> None:
        if self._listener is not None:
            await self._listener.aclose()
        self._wakes.wake_all()
        # The last thread closes the connections: one that is still in use could not be closed from here.
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._tell_end = lambda: loop.call_soon_threadsafe(ended.set)
        self._work.close()
        self._renewals.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await ended.wait()

    async def _ready(self) -> bool:
        return self._listener is not None and await self._listener.ready()

    def _pool_ended(self) -> None:
        with self._pools:
            self._pools_left -= 1
            is_last = self._pools_left == 0
        if is_last:
            self._engine.dispose()
            with contextlib.suppress(RuntimeError):  # the loop has not waited so long
                self._tell_end()

    async def _run(self, work: Callable[[Connection], T]) -> T:
        return await self._work.run(partial(self._decide, work))

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._work.run(partial(self._decide, work, reads=True))

    # -- on a thread

    def _decide(self, work: Callable[[Connection], T], *, reads: bool = False) -> T:
        """One transaction, begun again if a repeat of the same request was faster. Raises as the module says."""
        for _ in range(TRIES):
            try:
                if not self._has_tables:
                    with self._making_tables:
                        self._transaction(schema.create)
                        self._has_tables = True
                return self._transaction(work, reads=reads)
            except IntegrityError as error:
                log.debug("begun again: %s", error.orig)
        raise overloaded("others were faster, again and again")

    def _transaction(self, work: Callable[[Connection], T], *, reads: bool = False) -> T:
        try:
            connection = self._engine.connect().execution_options(**{READS: reads})
        except (DBAPIError, PoolTimeoutError, OSError) as error:
            raise NotSent(f"{self._shown} cannot be reached: {_why(error)}") from error
        with connection:
            try:
                transaction = connection.begin()
                outcome = work(connection)
            except IntegrityError:
                raise  # and is rolled back, as everything that leaves this block
            except DBAPIError as error:
                if _is_transient(error):
                    raise overloaded(_why(error)) from error
                raise NotSent(f"{self._shown}: {_why(error)}") from error
            try:
                transaction.commit()
            except SQLAlchemyError as error:
                raise NoAnswer(f"{self._shown}, in the middle of COMMIT: {_why(error)}") from error
            return outcome

    def _sweep(self) -> None:
        """Tidying is nobody's reason to fail."""
        try:
            self._transaction(transactions.sweep)
        except (NotSent, NoAnswer, Refusal, SQLAlchemyError) as error:
            log.info("the tables were not swept: %s", error)


def _engine(address: URL, size: int) -> Engine:
    options: dict[str, Any] = {
        "pool_size": size,
        "max_overflow": 0,
        "pool_timeout": CONNECT_SECONDS,
        "hide_parameters": True,  # keys may be personal data, and session ids are secrets
    }
    if address.get_backend_name() == "sqlite":
        engine = create_engine(address, connect_args={"timeout": LOCK_SECONDS}, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    settings = (
        f"-c lock_timeout={LOCK_SECONDS}s -c statement_timeout={STATEMENT_SECONDS}s"
        f" -c idle_in_transaction_session_timeout={SILENCE_SECONDS}s"
    )
    arguments: dict[str, Any] = {}
    if address.get_driver_name() == "psycopg":
        options["use_native_hstore"] = False  # else every new connection asks the catalogue first
        arguments = {
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": SILENCE_SECONDS * 1000,
        }
        if (
            "options" not in address.query
        ):  # `?options=` in the address: for a pooler that refuses settings at the start
            arguments["options"] = settings
    return create_engine(
        address, connect_args=arguments, isolation_level="READ COMMITTED", **options
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Transactions are begun by `_begin_immediate`, not by the driver. A commit is on the disk when it returns."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: Connection) -> None:
    """The whole file from the start: a transaction that reads first and writes later may find that it cannot. One that only reads
    stands in nobody's way."""
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _listener(address: URL, wakes: Wakes, clock: Clock) -> Any:
    if address.get_backend_name() != "postgresql" or address.get_driver_name() != "psycopg":
        return None
    from holdfast.stores.sql.listener import Listener

    conninfo = address.set(drivername="postgresql").render_as_string(hide_password=False)
    return Listener(conninfo, wakes, clock)


def _is_transient(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state in TRANSIENT or "database is locked" in str(error.orig)


def _why(error: Exception) -> str:
    """What the driver says, on one line, without SQLAlchemy's additions."""
    original = getattr(error, "orig", None) or error
    return " ".join(str(original).split()) or type(original).__name__
