"""Locks in a SQL database, what only shows inside: races for a lease, for the tables, for a commit; what is kept and what not."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, func, select, text, update
from sqlalchemy.exc import OperationalError

import holdfast
from holdfast.stores.base import Ask, Granted, Refusal
from holdfast.stores.sql import schema, transactions
from holdfast.stores.sql.store import SqlStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

PATIENCE_SECONDS = 20.0
HOLDER, OTHER = "the-holder-session", "the-other-session"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'locks.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url, isolation_level="READ COMMITTED")
    with engine.begin() as connection:
        schema.create(connection)
    yield engine
    engine.dispose()


def ask(session: str, request_id: int = 1, key: str = "k", wait_ms: int = 0) -> Ask:
    return Ask(session, request_id, (key,), wait_ms, -1, None, None)


def until(condition: Callable[[], object]) -> None:
    """Ask another process until it is so; each round is a call to it."""
    give_up = threading.Event()
    timer = threading.Timer(PATIENCE_SECONDS, give_up.set)
    timer.start()
    try:
        while not condition():
            assert not give_up.is_set(), "it never came true"
    finally:
        timer.cancel()


def store_of(client: holdfast.AsyncClient) -> SqlStore:
    found = client._transport._store  # type: ignore[attr-defined]
    assert isinstance(found, SqlStore)
    return found


def test_a_renewal_that_is_on_its_way_wins_against_a_takeover(postgres: Engine) -> None:
    """time 0: the holder renews in time, its transaction is not committed yet; time 1: the old deadline is past, and somebody else
    wants the lock; time 2: the renewal commits. The other is refused: there is one holder."""
    with postgres.begin() as connection:
        transactions.open_session(connection, HOLDER, 3_000, None)
        transactions.open_session(connection, OTHER, 60_000, None)
        assert isinstance(transactions.acquire(connection, ask(HOLDER), True), Granted)
    outcomes: list[object] = []

    def take() -> None:
        with postgres.begin() as other:
            outcomes.append(transactions.acquire(other, ask(OTHER), True))

    autocommit = postgres.execution_options(isolation_level="AUTOCOMMIT")
    with postgres.connect() as renewing, autocommit.connect() as looking:
        ends = looking.execute(
            select(schema.sessions.c.deadline_ms).where(schema.sessions.c.id == HOLDER)
        ).scalar_one()
        until(
            lambda: transactions.clock(looking) > ends - 1_000
        )  # the new lease outlasts the old by 2 s
        with renewing.begin():
            transactions.renew(renewing, HOLDER)
            until(lambda: transactions.clock(looking) > ends)
            taking = threading.Thread(target=take)
            taking.start()
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            until(lambda: looking.execute(waiting).scalar())
            assert outcomes == []
        taking.join()
    assert isinstance(outcomes[0], Refusal)
    assert outcomes[0].code == "held"


def test_a_takeover_that_came_first_ends_the_session_for_its_renewal(postgres: Engine) -> None:
    """The other way round: the lock is given away, and then the renewal finds the session ended."""
    with postgres.begin() as connection:
        transactions.open_session(connection, HOLDER, 1_000, None)
        transactions.open_session(connection, OTHER, 60_000, None)
        transactions.acquire(connection, ask(HOLDER), True)
    with postgres.begin() as connection:
        ends = transactions.clock(connection) + 1_000
        until(lambda: transactions.clock(connection) > ends)
    with postgres.begin() as connection:
        granted = transactions.acquire(connection, ask(OTHER), True)
        assert isinstance(granted, Granted)
        assert granted.previous == (holdfast.Previous(1, "expired"),)
    with postgres.begin() as connection, pytest.raises(Refusal, match="has expired"):
        transactions.renew(connection, HOLDER)


async def test_many_may_be_the_first_to_use_the_database(url: str) -> None:
    """Eight clients at once on an empty database: the tables are made once, nobody fails, one gets the lock."""
    clients = [holdfast.connect(url) for _ in range(8)]
    got = await asyncio.gather(*(each.acquire_lock("k") for each in clients))
    assert sorted(got) == [False] * 7 + [True]
    await asyncio.gather(*(each.aclose() for each in clients))


async def test_tables_of_another_version_are_refused_in_a_sentence(url: str) -> None:
    """A newer library has been here: this one must not guess."""
    async with holdfast.connect(url) as client:
        assert await client.acquire_lock("k")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(update(schema.store).values(version=99))
    engine.dispose()
    async with holdfast.connect(url) as client:
        with pytest.raises(
            holdfast.Refused, match="have version 99, and this library knows version 1"
        ):
            await client.acquire_lock("k")


async def test_a_commit_that_fails_is_an_unknown_outcome_and_is_asked_for_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has committed, and the answer is an error: asked again under the same id, the client gets that very grant."""
    async with holdfast.connect(url) as client:
        assert await client.acquire_lock("warm")
        dialect = store_of(client)._engine.dialect
        really, failed = dialect.do_commit, []

        def commit_and_fail(connection: Any) -> None:
            really(connection)
            if not failed:
                failed.append(True)
                raise OperationalError("COMMIT", {}, Exception("the connection broke"))

        monkeypatch.setattr(dialect, "do_commit", commit_and_fail)
        assert await client.acquire_lock("k")
        assert failed
        grant = client.grant_of("k")
        assert grant is not None
        assert grant.previous is None
        assert [each.token for each in (await client.read_lock("k")).holders] == [grant.token]


async def test_whoever_waits_holds_no_transaction(postgres_url: str) -> None:
    """Twenty waiters, and no transaction is open in the database: a pool of connections is not used up by waiting."""
    looking = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
    )
    async with holdfast.connect(postgres_url) as holder, holdfast.connect(postgres_url) as other:
        assert await holder.acquire_lock("k")
        waiting = [asyncio.create_task(_hold_briefly(other)) for _ in range(20)]
        while (await holder.read_lock("k")).queue_length < 20:
            pass  # each round is a call to the database
        with looking.connect() as connection:
            await asyncio.to_thread(until, lambda: connection.execute(query).scalar() == 0)
        assert await holder.release_lock("k")
        await asyncio.gather(*waiting)
    looking.dispose()


async def test_postgres_tells_the_waiter(postgres_url: str) -> None:
    """With messages a waiter looks every few seconds by itself; it gets the lock long before that, because it is told."""
    async with holdfast.connect(postgres_url) as holder, holdfast.connect(postgres_url) as other:
        looks = 0

        def count(*_: object) -> None:
            nonlocal looks
            looks += 1

        for _ in range(5):
            assert await holder.acquire_lock("k")
            waiting = asyncio.create_task(_hold_briefly(other))
            while not (await holder.read_lock("k")).queue_length:
                pass
            event.listen(store_of(other)._engine, "begin", count)
            started = asyncio.get_running_loop().time()
            assert await holder.release_lock("k")
            await waiting
            took = asyncio.get_running_loop().time() - started
            event.remove(store_of(other)._engine, "begin", count)
            assert took < 2.0
        assert looks < 5 * 6  # the look after LISTEN, the one that was woken, the release


def test_nothing_grows_with_the_number_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended locks, ended sessions and their requests are swept; what is held stays, however old."""
    monkeypatch.setattr(transactions, "PREVIOUS_REMEMBERED", 3)
    engine = create_engine(f"sqlite:///{tmp_path / 'locks.db'}")
    with engine.begin() as connection:
        schema.create(connection)
        transactions.open_session(connection, HOLDER, 3_600_000, None)
        transactions.open_session(connection, OTHER, 3_600_000, None)
        assert isinstance(transactions.acquire(connection, ask(HOLDER, 1, "held"), True), Granted)
        for number in range(1, 21):
            granted = transactions.acquire(connection, ask(OTHER, number, f"k{number}"), True)
            assert isinstance(granted, Granted)
            transactions.release(connection, OTHER, granted.token)
        long_ago = schema.now_ms() - 2 * 3_600_000
        connection.execute(
            update(schema.sessions)
            .where(schema.sessions.c.id == OTHER)
            .values(deadline_ms=long_ago)
        )
        transactions.sweep(connection)
        left = connection.execute(
            select(schema.locks.c.key).order_by(schema.locks.c.token)
        ).scalars()
        assert list(left) == ["held", "k18", "k19", "k20"]
        for table, rows in ((schema.sessions, 1), (schema.requests, 1)):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == rows
    engine.dispose()


def test_a_session_keeps_a_bounded_number_of_outcomes(tmp_path: Path) -> None:
    """However many locks one client takes and releases, settled outcomes go."""
    engine = create_engine(f"sqlite:///{tmp_path / 'locks.db'}")
    with engine.begin() as connection:
        schema.create(connection)
        transactions.open_session(connection, HOLDER, 3_600_000, None)
        for number in range(1, 400):
            one = Ask(HOLDER, number, ("k",), 0, number - 1, None, None)
            granted = transactions.acquire(connection, one, True)
            assert isinstance(granted, Granted)
            transactions.release(connection, HOLDER, granted.token)
        kept = connection.execute(select(func.count()).select_from(schema.requests)).scalar()
        assert kept is not None
        assert kept <= transactions.SETTLED_KEPT + transactions.SETTLE_EVERY + 1
    engine.dispose()


async def _hold_briefly(client: holdfast.AsyncClient) -> None:
    async with client.lock("k", wait=30.0):
        pass
