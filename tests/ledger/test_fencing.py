"""The guards: a floor never goes down, in memory and in SQL, told by one set of tests for both."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import MetaData, create_engine
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection
from sqlalchemy.pool import StaticPool

from holdfast.fencing import MemoryGuard, Stale, checked_keys
from holdfast.fencing.sql import SqlGuard, fences_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Guard(Protocol):
    def raise_floor(self, keys: str | Sequence[str], fence: int) -> None: ...
    def highest(self, key: str) -> int | None: ...


class OnSqlite:
    """The SQL guard with its transaction, so that it looks like the other one."""

    def __init__(self) -> None:
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        metadata = MetaData()
        self.guard = SqlGuard(fences_table(metadata, "floors"))
        metadata.create_all(self.engine)

    def raise_floor(self, keys: str | Sequence[str], fence: int) -> None:
        with self.engine.begin() as connection:
            self.guard.raise_floor(connection, keys, fence)

    def highest(self, key: str) -> int | None:
        with self.engine.begin() as connection:
            return self.guard.highest(connection, key)


@pytest.fixture(params=["memory", "sqlite"])
def guard(request: pytest.FixtureRequest) -> Iterator[Guard]:
    if request.param == "memory":
        yield MemoryGuard()
        return
    on_sqlite = OnSqlite()
    yield on_sqlite
    on_sqlite.engine.dispose()


def test_a_lower_fence_is_refused_and_the_error_says_by_what(guard: Guard) -> None:
    """The late holder of fence 33 learns that 34 has been there; the floor stays."""
    guard.raise_floor("payments/1234/collect", 34)
    with pytest.raises(Stale) as caught:
        guard.raise_floor("payments/1234/collect", 33)
    assert (caught.value.key, caught.value.fence, caught.value.highest) == (
        "payments/1234/collect",
        33,
        34,
    )
    assert "33" in str(caught.value)
    assert "34" in str(caught.value)
    assert guard.highest("payments/1234/collect") == 34


def test_the_same_holder_may_write_again(guard: Guard) -> None:
    """An equal fence is the same hold: it raises the floor first and captures later."""
    guard.raise_floor("k", 5)
    guard.raise_floor("k", 5)
    assert guard.highest("k") == 5


def test_keys_have_floors_of_their_own(guard: Guard) -> None:
    """A high fence on one key says nothing about another."""
    guard.raise_floor("a", 100)
    guard.raise_floor("b", 1)
    assert guard.highest("c") is None


def test_several_keys_move_all_or_none(guard: Guard) -> None:
    """A refusal at the last key leaves the floor of the first where it was."""
    guard.raise_floor("z", 9)
    with pytest.raises(Stale) as caught:
        guard.raise_floor(["a", "z"], 8)
    assert caught.value.key == "z"
    assert guard.highest("a") is None
    guard.raise_floor(["z", "a"], 10)
    assert (guard.highest("a"), guard.highest("z")) == (10, 10)


def test_several_keys_move_none_even_if_the_caller_commits_after_stale() -> None:
    """Catching `Stale` inside the transaction and committing it must not keep half of the floors."""
    floors = OnSqlite()
    floors.raise_floor("z", 9)
    with floors.engine.begin() as connection, pytest.raises(Stale):
        floors.guard.raise_floor(connection, ["a", "z"], 8)
    assert floors.highest("a") is None
    floors.engine.dispose()


@pytest.mark.parametrize("fence", [None, True, "7", 7.0])
def test_what_is_not_an_integer_is_refused_by_type(guard: Guard, fence: object) -> None:
    """No fence (a lock with several holders) is no fence; it never counts as zero or as allowed."""
    with pytest.raises(TypeError, match="a fence is an integer"):
        guard.raise_floor("k", fence)  # type: ignore[arg-type]


@pytest.mark.parametrize("fence", [0, -1, 2**53])
def test_a_fence_out_of_range_is_refused(guard: Guard, fence: int) -> None:
    """Tokens start at 1 and stay below 2**53."""
    with pytest.raises(ValueError, match="a fence is between"):
        guard.raise_floor("k", fence)


@pytest.mark.parametrize("key", ["", "x" * 513, "é" * 257, "a\x00b", "a\nb", "\ud800"])
def test_what_is_not_a_key_is_refused(guard: Guard, key: str) -> None:
    """Keys keep the limits of the vocabulary, in bytes."""
    with pytest.raises(ValueError, match="a key"):
        guard.raise_floor(key, 1)


def test_keys_are_ordered_by_bytes_and_counted_once() -> None:
    """Every writer locks rows in one order, so overlapping writers cannot deadlock."""
    assert checked_keys(["b", "a", "\U0001f600", "ﬀ", "a"]) == ("a", "b", "ﬀ", "\U0001f600")
    with pytest.raises(ValueError, match="keys are needed"):
        checked_keys([])


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 20)), max_size=60))
def test_both_guards_agree_and_no_floor_ever_goes_down(calls: list[tuple[str, int]]) -> None:
    """Whatever comes in whatever order, both guards decide the same, and a floor is the maximum of what was admitted."""
    memory, sql = MemoryGuard(), OnSqlite()
    model: dict[str, int] = {}
    for key, fence in calls:
        refused = []
        for guard in (memory, sql):
            try:
                guard.raise_floor(key, fence)
                refused.append(False)
            except Stale:
                refused.append(True)
        assert refused == [fence < model.get(key, 0)] * 2
        model[key] = max(model.get(key, 0), fence)
        assert memory.highest(key) == sql.highest(key) == model[key]
    sql.engine.dispose()


def test_the_memory_guard_is_correct_between_threads() -> None:
    """Of many threads with different fences, the highest stays, whatever the order of their arrival."""
    guard = MemoryGuard()
    start = threading.Barrier(8)

    def write(fence: int) -> None:
        start.wait()
        for _ in range(200):
            try:
                guard.raise_floor("k", fence)
            except Stale as stale:
                assert stale.highest > fence  # noqa: PT017 - in a thread, where `raises` cannot collect

    threads = [threading.Thread(target=write, args=(fence,)) for fence in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guard.highest("k") == 8


def test_stale_survives_pickling() -> None:
    """A refusal in a process pool arrives with all that it carried."""
    copy = pickle.loads(pickle.dumps(Stale("k", 1, 2)))  # noqa: S301 - our own bytes
    assert (copy.key, copy.fence, copy.highest) == ("k", 1, 2)


def test_another_database_is_refused_with_a_sentence() -> None:
    """MySQL's ON DUPLICATE KEY has no WHERE: the guard does not pretend."""

    class FakeConnection:
        dialect = mysql.dialect()

    guard = SqlGuard(fences_table(MetaData()))
    with pytest.raises(NotImplementedError, match="postgresql and sqlite, not on mysql"):
        guard.raise_floor(FakeConnection(), "k", 1)  # type: ignore[arg-type]


def test_the_base_install_can_import_fencing() -> None:
    """`holdfast.fencing` loads no SQL library: the base install has none."""
    code = "import sys, holdfast.fencing; sys.exit(any(m.split('.')[0] == 'sqlalchemy' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own interpreter


def test_connection_is_the_callers() -> None:
    """The guard's work is part of the caller's transaction: rolled back with it."""
    floors = OnSqlite()
    with floors.engine.connect() as connection:
        assert isinstance(connection, Connection)
        floors.guard.raise_floor(connection, "k", 5)
        connection.rollback()
    assert floors.highest("k") is None
    floors.engine.dispose()
