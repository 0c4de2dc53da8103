"""The ledger's database: how a transaction begins, how long it waits, when it is tried again, and what is known when it fails.

The rule: three outcomes and never a mixture.

* `work` raises, or its connection breaks before COMMIT was sent: nothing took effect, on either database.
* The database refuses the COMMIT (a serialization failure, a constraint): nothing took effect.
* COMMIT was sent and its answer is lost: `CommitUnknown`. Nothing is tried again here; asking again is the caller's.

Only the first two are tried again, and only where the cause is the moment's: a deadlock, a serialization failure, a connection that
the server or a pooler had closed meanwhile. So a retry never does a thing twice.

It knows SQLAlchemy and the two databases, and nothing of payments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from holdfast.fencing.statements import DIALECTS
from holdfast_ledger.errors import CommitUnknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Connection, Engine, RootTransaction
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

LOCK_WAIT_MS: Final = 10_000
"""How long a writer waits for the one before it. A transaction here takes milliseconds: after ten seconds its process is frozen or
its disk is stuck. On PostgreSQL the server ends a transaction whose process says nothing for as long, so that a frozen worker does
not keep everybody from its floor."""

ATTEMPTS_MAX: Final = 5
"""Of one transaction. Writers here lock in one order, so a deadlock needs a stranger on the same tables; five are a fault."""

POOL_SIZE: Final = 4
"""Connections kept to a database: SQLite has one writer anyway, and a worker of PostgreSQL needs one or two."""

CONNECT_SECONDS: Final = 10
"""For a connection to PostgreSQL. The system's own limit is minutes."""

SILENCE_MS: Final = 15_000
"""A server that acknowledges nothing for so long is gone; without it a cut line is noticed after hours."""

_READ_ONLY: Final = "holdfast_read_only"

_WAITS: Final = text(
    "SELECT set_config('lock_timeout', :wait, true), "
    "set_config('idle_in_transaction_session_timeout', :wait, true)"
)

_TRANSIENT: Final = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: PostgreSQL has rolled the transaction back, and the next attempt may succeed."""

_REFUSED_COMMITS: Final = ("23", "40001", "40P01", "40002")
"""SQLSTATEs of a COMMIT that was certainly rolled back. Not 40003, which says "unknown", and not 57P01: a server that is stopped
while it waits for a standby has already committed."""

_SQLITE_BUSY: Final = 5
"""The transaction was still open, and leaving it rolled it back."""

Result = TypeVar("Result")


class Database:
    """One database with the ledger's manners. Safe to share between threads."""

    def __init__(self, target: str | Path, *, lock_wait_ms: int = LOCK_WAIT_MS) -> None:
        """`target`: a path (SQLite) or a SQLAlchemy URL. Connects to nothing yet. Raises `NotImplementedError` for a database that
        the guard does not run on."""
        url = make_url(f"sqlite:///{target}" if isinstance(target, Path) else target)
        self.dialect: Final[str] = url.get_backend_name()
        if self.dialect not in DIALECTS:
            raise NotImplementedError(
                f"the ledger runs on sqlite and postgresql, not on {self.dialect}"
            )
        opened = _open_postgresql if self.dialect == "postgresql" else _open_sqlite
        self.engine: Final[Engine] = opened(url, lock_wait_ms)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in one transaction and commit it. `work` may run several times, of which one takes effect.

        Raises what `work` raises, with no effect; the driver's error (as SQLAlchemy wraps it), with no effect; `CommitUnknown`.
        """
        return self._tried({}, work)

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in a transaction that sees one moment, however many statements it reads with."""
        options: dict[str, Any] = {_READ_ONLY: True}
        if self.dialect == "postgresql":
            # READ COMMITTED would show each statement another moment; SQLite's readers see one by themselves.
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        return self._tried(options, work)

    def _tried(self, options: dict[str, Any], work: Callable[[Connection], Result]) -> Result:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return self._attempt(options, work)
            except DBAPIError as error:
                if attempt == ATTEMPTS_MAX or not _is_of_the_moment(error):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, options: dict[str, Any], work: Callable[[Connection], Result]) -> Result:
        with self.engine.connect() as bare:
            connection = bare.execution_options(**options)
            transaction = connection.begin()
            try:
                result = work(connection)
            except BaseException:
                transaction.rollback()
                raise
            _commit(transaction)
            return result


def _commit(transaction: RootTransaction) -> None:
    try:
        transaction.commit()
    except DBAPIError as error:
        if _is_refused_commit(error):
            raise
        raise CommitUnknown(
            "the answer to the commit was lost: ask again with the same arguments"
        ) from error


def _sqlstate(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "")


def _is_of_the_moment(error: DBAPIError) -> bool:
    """Whether another attempt may succeed. (What is unknown never comes here: it is no `DBAPIError`.)"""
    return error.connection_invalidated or _sqlstate(error) in _TRANSIENT


def _is_refused_commit(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return False
    if getattr(error.orig, "sqlite_errorcode", None) == _SQLITE_BUSY:
        return True
    return _sqlstate(error).startswith(_REFUSED_COMMITS)


def _open_postgresql(url: URL, lock_wait_ms: int) -> Engine:
    # The guard relies on a conflicting row being read as its last writer committed it: READ COMMITTED, PostgreSQL's default.
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        isolation_level="READ COMMITTED",
        connect_args=_connect_args(url),
    )

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # Of the transaction, not of the session: a pooler may hand the session to others.
        connection.execute(_WAITS, {"wait": f"{lock_wait_ms}ms"})

    return engine


def _connect_args(url: URL) -> dict[str, Any]:
    """What the driver is told besides the URL, which has the last word."""
    driver = url.get_driver_name()
    if driver not in ("psycopg", "psycopg2"):
        return {}
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": SILENCE_MS,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 2,
    }
    if driver == "psycopg":
        # Prepared statements belong to a session, and a pooler in front may give the next transaction another one.
        options["prepare_threshold"] = None
    return {name: value for name, value in options.items() if name not in url.query}


def _open_sqlite(url: URL, lock_wait_ms: int) -> Engine:
    in_memory = url.database in (None, "", ":memory:")
    engine = create_engine(
        url,
        poolclass=QueuePool,
        # A database in memory belongs to its connection, so there can be only one.
        pool_size=1 if in_memory else POOL_SIZE,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver would begin transactions by itself, deferred: two readers that both go on to write, and one fails.
        connection.isolation_level = None
        cursor = connection.cursor()
        # First, because the next line can meet a busy file.
        cursor.execute(f"PRAGMA busy_timeout = {lock_wait_ms}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # A capture that was answered survives a power loss.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
