"""What the ledger says when its database fails in the middle: done, refused and unknown are three things."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from lossy_line import LossyLine
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from holdfast import UnknownOutcome
from holdfast_ledger import CommitUnknown, Duplicate, Ledger
from holdfast_ledger.database import ATTEMPTS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

KEY = "payments/1234/collect"
COMMIT = b"COMMIT\0"
"""The statement alone: READ COMMITTED has the word too."""
ORDER: dict[str, Any] = {"payment": "p-1", "customer": "1234", "amount": 1999, "currency": "EUR"}


@pytest.fixture
def line(postgres_url: str) -> Iterator[LossyLine]:
    with LossyLine(make_url(postgres_url).port or 5432) as opened:
        yield opened


@pytest.fixture
def behind(line: LossyLine, postgres_url: str) -> Iterator[Ledger]:
    """A ledger whose database is behind the lossy line."""
    url = make_url(postgres_url).set(host="127.0.0.1", port=line.port)
    with Ledger(url.render_as_string(hide_password=False)) as opened:
        yield opened


def test_a_commit_whose_answer_is_lost_is_unknown_and_asking_again_tells(
    behind: Ledger, line: LossyLine
) -> None:
    """time 0: COMMIT takes effect; time 1: its answer is lost: unknown, not refused; time 2: asked again: a duplicate, the same."""
    line.break_once(COMMIT, "after")
    with pytest.raises(CommitUnknown) as caught:
        behind.capture(KEY, **ORDER, fence=7)
    assert isinstance(caught.value, UnknownOutcome)
    with pytest.raises(Duplicate) as again:
        behind.capture(KEY, **ORDER, fence=7)
    assert again.value.differences == ()
    assert behind.check_balanced().captures == 1


def test_a_commit_that_never_arrived_is_unknown_too(behind: Ledger, line: LossyLine) -> None:
    """The client cannot tell it from the other; asked again it is captured, once."""
    line.break_once(COMMIT, "before")
    with pytest.raises(CommitUnknown):
        behind.capture(KEY, **ORDER, fence=7)
    behind.capture(KEY, **ORDER, fence=7)
    assert behind.check_balanced().captures == 1
    assert line.breaks == 1


def test_a_floor_whose_commit_is_unknown_is_raised_again(behind: Ledger, line: LossyLine) -> None:
    """An equal fence passes, so asking again is always right."""
    line.break_once(COMMIT, "after")
    with pytest.raises(CommitUnknown):
        behind.raise_floor(KEY, 7)
    behind.raise_floor(KEY, 7)
    assert behind.floor(KEY) == 7


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "word",
    [b"INSERT INTO fences", b"INSERT INTO payments", b"INSERT INTO entries", b"lock_timeout"],
)
def test_a_connection_that_breaks_before_the_commit_is_tried_again_and_captures_once(
    behind: Ledger, line: LossyLine, word: bytes, when: Any
) -> None:
    """Without COMMIT nothing took effect, whatever the server has already done: the transaction runs again, by itself."""
    line.break_once(word, when)
    behind.capture(KEY, **ORDER, fence=7)
    assert line.breaks == 1
    books = behind.check_balanced()
    assert (books.captures, books.entries) == (1, 2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_reading_whose_connection_breaks_is_tried_again(
    behind: Ledger, line: LossyLine, when: Any
) -> None:
    """Also at its end: a COMMIT of a reading decides nothing, but the client cannot know that, and says what it knows."""
    behind.capture(KEY, **ORDER, fence=7)
    line.break_once(b"SELECT payments", when)
    assert behind.payment("p-1") is not None
    assert line.breaks == 1


def test_a_database_that_is_gone_is_said_to_be_and_nothing_took_effect(postgres_url: str) -> None:
    """The driver's own error comes through, after a bounded number of attempts."""
    with (
        LossyLine(make_url(postgres_url).port or 5432) as line,
        Ledger(
            make_url(postgres_url)
            .set(host="127.0.0.1", port=line.port)
            .render_as_string(hide_password=False)
        ) as ledger,
    ):
        attempts: list[str] = []

        @event.listens_for(ledger._database.engine, "before_cursor_execute")
        def cut_again(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
            if statement.startswith("INSERT INTO fences"):
                attempts.append(statement)
                line.break_once(b"INSERT INTO fences", "before")

        with pytest.raises(OperationalError):
            ledger.raise_floor(KEY, 7)
        assert len(attempts) == ATTEMPTS_MAX
        event.remove(ledger._database.engine, "before_cursor_execute", cut_again)
        assert ledger.floor(KEY) is None


def test_a_deadlock_with_a_stranger_is_tried_again_and_captures_once(postgres_url: str) -> None:
    """time 0: somebody else's code has locked `b`; time 1: the ledger locks `a` and waits for `b`; time 2: the other wants `a`:
    whichever of the two PostgreSQL ends, the capture is made, once."""
    stranger = create_engine(postgres_url)
    with Ledger(postgres_url) as ledger, ThreadPoolExecutor(1) as pool:
        ledger.raise_floor(["a", "b"], 1)
        with stranger.connect() as other:
            lock = text("SELECT 1 FROM fences WHERE key = :key FOR UPDATE")
            # The victim is whoever waits for longer than this: the ledger, since the stranger would wait a minute.
            other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
            other.execute(lock, {"key": "b"})
            capture = pool.submit(ledger.capture, ["a", "b"], **ORDER, fence=7)
            until_somebody_waits(postgres_url)
            other.execute(lock, {"key": "a"})  # granted when the ledger's transaction was ended
            other.rollback()
        assert capture.result().fence == 7
        assert ledger.check_balanced().entries == 2
    stranger.dispose()


def until_somebody_waits(url: str) -> None:
    """Another connection is blocked: only the database can tell."""
    watcher = create_engine(url, isolation_level="AUTOCOMMIT")
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with watcher.connect() as connection:
        for _ in range(10_000):
            if connection.execute(waiting).scalar_one():
                break
        else:
            raise AssertionError("nobody ever waited")
    watcher.dispose()


def test_a_frozen_worker_keeps_nobody_from_the_floor_for_ever(target: str) -> None:
    """A process that stands still within its transaction holds the row of the key: the next holder waits with a bound, and is told
    by an error that nothing took effect."""
    with Ledger(target) as frozen, Ledger(target, lock_wait_ms=50) as next_holder:
        with frozen._database.engine.begin() as connection:
            frozen._guard.raise_floor(connection, KEY, 7)
            with pytest.raises(OperationalError):
                next_holder.raise_floor(KEY, 9)
        next_holder.raise_floor(KEY, 9)
        assert next_holder.floor(KEY) == 9


def test_the_server_ends_a_transaction_whose_worker_says_nothing(postgres_url: str) -> None:
    """So a worker that was stopped between two statements loses its transaction, and the next holder gets the floor."""
    with Ledger(postgres_url, lock_wait_ms=50) as frozen, Ledger(postgres_url) as next_holder:
        with frozen._database.engine.connect() as connection:
            connection.begin()
            frozen._guard.raise_floor(connection, KEY, 7)
            next_holder.raise_floor(KEY, 9)  # waits until the server has ended the other
            with pytest.raises(DBAPIError):
                connection.execute(text("SELECT 1"))
        assert next_holder.floor(KEY) == 9


def test_the_books_are_read_at_one_moment(target: str) -> None:
    """A capture that is committed between two statements of the check makes no book unbalanced."""
    with Ledger(target) as ledger, Ledger(target) as writer:
        ledger.capture(KEY, **ORDER, fence=7)
        numbers = iter(range(2, 100))
        captured: list[int] = []

        @event.listens_for(ledger._database.engine, "after_cursor_execute")
        def capture_one_more(
            connection: Connection, _cursor: object, statement: str, *_more: object
        ) -> None:
            if statement.startswith("SELECT") and "set_config" not in statement:
                number = next(numbers)
                writer.capture(KEY, **(ORDER | {"payment": f"p-{number}"}), fence=7)
                captured.append(number)

        assert ledger.check_balanced().captures == 1
        assert len(captured) >= 4, "something was captured after each statement"
        assert writer.check_balanced().captures == 1 + len(captured)


def test_writers_of_different_keys_do_not_wait_for_each_other(postgres_url: str) -> None:
    """On PostgreSQL a transaction that is still open holds up nobody but the next holder of its own key."""
    with Ledger(postgres_url) as one, Ledger(postgres_url, lock_wait_ms=50) as other:
        one.capture("k0", **(ORDER | {"payment": "p-0"}), fence=1)  # so the accounts exist
        with one._database.engine.begin() as connection:
            one._guard.raise_floor(connection, "k1", 7)
            other.capture("k2", **ORDER, fence=8)
        assert other.check_balanced().captures == 2
