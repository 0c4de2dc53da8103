"""The guards: a floor never goes down, in memory and in SQL, told by one set of tests for all of them."""

from __future__ import annotations

import itertools
import pickle
import sqlite3
import subprocess
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from sqlalchemy import MetaData
from sqlalchemy.dialects import mysql

from holdfast.fencing import REFUSED_TOTAL, MemoryGuard, Stale, checked_keys
from holdfast.fencing.dbapi import DbapiGuard
from holdfast.fencing.sql import SqlGuard, fences_table
from holdfast.fencing.statements import rendered

if TYPE_CHECKING:
    from conftest import Guard, OnDatabase


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


def test_several_keys_move_none_even_if_the_caller_commits_after_stale(guarded: OnDatabase) -> None:
    """Catching `Stale` inside the transaction and committing it must not keep half of the floors, and the transaction goes on."""
    guarded.raise_floor("z", 9)
    with guarded.transaction() as connection:
        with pytest.raises(Stale) as caught:
            guarded.raise_on(connection, ["a", "z"], 8)
        guarded.write(connection, 8)
    assert (caught.value.key, caught.value.highest) == ("z", 9)
    assert guarded.highest("a") is None
    assert guarded.written() == [8]


EXAMPLES = itertools.count()


class GoneWrong(Exception):
    """What makes a caller roll back."""


@pytest.mark.parametrize("keys", ["a", ["a", "b"], ["b", "c", "a"]])
def test_the_transaction_is_the_callers(guarded: OnDatabase, keys: str | list[str]) -> None:
    """The floors of one key or several are part of the caller's transaction: rolled back with it, together with the write."""

    def goes_wrong() -> None:
        with guarded.transaction() as connection:
            guarded.raise_on(connection, keys, 5)
            guarded.write(connection, 5)
            raise GoneWrong

    with pytest.raises(GoneWrong):
        goes_wrong()
    assert [guarded.highest(key) for key in "abc"] == [None] * 3
    assert guarded.written() == []


def test_a_connection_that_commits_by_itself_is_refused(guarded: OnDatabase) -> None:
    """There the floor would be unlocked before the write: said in a sentence, and nothing is moved."""
    with guarded.autocommitting() as connection, pytest.raises(RuntimeError, match="begin a tran"):
        guarded.raise_on(connection, "k", 5)
    assert guarded.highest("k") is None


def test_a_transaction_that_was_begun_by_hand_is_one() -> None:
    """With autocommit a user may say BEGIN himself; then the floor holds until his COMMIT."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    guard = DbapiGuard(sqlite3)
    guard.create(connection)
    connection.execute("BEGIN IMMEDIATE")
    guard.raise_floor(connection, ["a", "b"], 5)
    connection.execute("ROLLBACK")
    assert guard.highest(connection, "a") is None
    connection.close()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("floor_before", [None, 3])
@pytest.mark.parametrize("keys", ["k", ["a", "k"]])
def test_a_transaction_that_looks_at_an_old_moment_does_not_get_through(
    postgres_url: str, level: str, floor_before: int | None, keys: str | list[str]
) -> None:
    """time 0: a transaction fixes its moment; time 1: fence 9 raises the floor; time 2: the transaction asks with 7: PostgreSQL
    ends it, instead of comparing with the floor of then."""
    guard = DbapiGuard(psycopg)
    address = postgres_url.replace("+psycopg", "", 1)
    with psycopg.connect(address) as later, psycopg.connect(address) as early:
        guard.create(later)
        if floor_before is not None:
            guard.raise_floor(later, "k", floor_before)
        later.commit()
        early.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        assert guard.highest(early, "k") == floor_before
        guard.raise_floor(later, "k", 9)
        later.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            guard.raise_floor(early, keys, 7)
        early.rollback()
        with pytest.raises(Stale):
            guard.raise_floor(early, keys, 7)


def test_a_pipeline_of_psycopg_is_waited_for(postgres_url: str) -> None:
    """There a statement has no answer yet when `execute` returns: that is not taken for a refusal, nor for a permission."""
    guard = DbapiGuard(psycopg)
    address = postgres_url.replace("+psycopg", "", 1)
    with psycopg.connect(address) as connection, connection.pipeline():
        guard.create(connection)
        guard.raise_floor(connection, "k", 5)
        guard.raise_floor(connection, ["a", "k"], 6)
        assert guard.highest(connection, "a") == 6
        with pytest.raises(Stale):
            guard.raise_floor(connection, ["a", "k"], 4)
        with pytest.raises(Stale):
            guard.raise_floor(connection, "k", 5)


def test_a_holder_waits_for_the_one_before_and_the_later_fence_wins(guarded: OnDatabase) -> None:
    """time 0: fence 7 raises the floor and writes, uncommitted; time 1: fence 9 comes, and waits; time 2: 7 commits, 9 goes on;
    time 3: 7 comes back, and is stale. So 9 has seen what 7 wrote."""
    seen: list[int] = []

    def later() -> None:
        with guarded.transaction() as connection:
            guarded.raise_on(connection, ["k", "l"], 9)
            seen.extend(guarded.written())
            guarded.write(connection, 9)

    with guarded.transaction() as connection:
        guarded.raise_on(connection, ["k", "l"], 7)
        guarded.write(connection, 7)
        thread = threading.Thread(target=later)
        thread.start()
    thread.join()
    assert seen == [7]
    with pytest.raises(Stale):
        guarded.raise_floor("k", 7)
    assert guarded.written() == [7, 9]


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


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    calls=st.lists(
        st.tuples(
            st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
            st.integers(1, 20),
        ),
        max_size=12,
    ),
)
def test_no_floor_ever_goes_down(guard: Guard, calls: list[tuple[list[str], int]]) -> None:
    """Whatever comes in whatever order, a floor is the maximum of what was admitted, and several keys move together."""
    example = next(EXAMPLES)  # the fixture lives through all of them
    model: dict[str, int] = {}
    refused = len(guard.refused)
    for letters, fence in calls:
        keys = [f"{example}/{letter}" for letter in letters]
        is_stale = any(model.get(key, 0) > fence for key in keys)
        try:
            guard.raise_floor(keys, fence)
        except Stale as stale:
            assert is_stale
            highest = stale.highest, model[stale.key]
            refused += 1
            assert highest[0] == highest[1] > fence
        else:
            assert not is_stale
            model.update(dict.fromkeys(keys, fence))
        assert {key: guard.highest(key) for key in keys} == {key: model.get(key) for key in keys}
    assert len(guard.refused) == refused, "each refusal is counted once"


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
    code = (
        "import sys, holdfast.fencing.dbapi, holdfast.fencing.postgres, holdfast.fencing.idempotency\n"
        "sys.exit(bool({m.split('.')[0] for m in sys.modules} & {'sqlalchemy', 'psycopg', 'prometheus_client'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own interpreter


def test_another_driver_is_refused_with_a_sentence() -> None:
    """What nobody has tried is not claimed."""
    with pytest.raises(NotImplementedError, match="postgresql and sqlite, not on pymysql"):
        DbapiGuard(_driver("pymysql", "pyformat"))
    with pytest.raises(ValueError, match="a table is named by"):
        DbapiGuard(sqlite3, table="fences; DROP TABLE fences")


@pytest.mark.parametrize(
    ("paramstyle", "statement", "parameters"),
    [
        ("qmark", 'IN "a %" ? = ? 5%', ("k", 7)),
        ("format", 'IN "a %" %s = %s 5%%', ("k", 7)),
        ("pyformat", 'IN "a %" %(key)s = %(fence)s 5%%', {"key": "k", "fence": 7}),
        ("named", 'IN "a %" :key = :fence 5%', {"key": "k", "fence": 7}),
        ("numeric", 'IN "a %" :1 = :2 5%', ("k", 7)),
        ("numeric_dollar", 'IN "a %" $1 = $2 5%', ("k", 7)),
    ],
)
def test_each_parameter_style_of_pep_249_is_spoken(
    paramstyle: str, statement: str, parameters: object
) -> None:
    """The driver's module says which; a percent sign is doubled only where the driver halves it."""
    values = {"fence": 7, "key": "k"}
    template = "IN {table} {key} = {fence} 5%"
    assert rendered(template, values, table='"a %"', paramstyle=paramstyle) == (
        statement,
        parameters,
    )


def test_a_parameter_style_of_nobody_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="none of PEP 249"):
        rendered("{key}", {"key": 1}, table="t", paramstyle="mustache")


def test_refusals_are_counted_where_the_user_counts() -> None:
    """`on_refused` and a counter of prometheus-client make the metric, without a label."""
    registry = CollectorRegistry()
    counter = Counter(REFUSED_TOTAL, "Writes that came with a stale fence.", registry=registry)
    guard = MemoryGuard(on_refused=lambda _stale: counter.inc())
    guard.raise_floor("k", 5)
    for _ in range(2):
        with pytest.raises(Stale):
            guard.raise_floor("k", 4)
    assert b"\nholdfast_fence_refused_total 2.0\n" in generate_latest(registry)


def test_a_callback_that_fails_does_not_hide_the_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """The caller must see `Stale`, or it would take the write for something to repeat."""

    def fails(_stale: Stale) -> None:
        raise OSError("the registry is gone")

    guard = MemoryGuard(on_refused=fails)
    guard.raise_floor("k", 5)
    with pytest.raises(Stale):
        guard.raise_floor("k", 4)
    assert "the registry is gone" in caplog.text


def _driver(name: str, paramstyle: str) -> Any:
    module = types.ModuleType(name)
    module.__dict__["paramstyle"] = paramstyle
    return module
