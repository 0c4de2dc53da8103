"""The trigger in a real PostgreSQL: code that forgot to ask a guard is refused by the database, in the statement that writes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.exc import DBAPIError

from holdfast.fencing import Stale, postgres
from holdfast.fencing.dbapi import DbapiGuard
from holdfast.fencing.sql import SqlGuard, fences_table

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "payments/1234/collect"
TABLE = """CREATE TABLE captures (customer text, amount bigint);
INSERT INTO captures VALUES ('1234', 1), ('1234', 2), ('77', 3);"""

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def address(postgres_url: str) -> str:
    return postgres_url.replace("postgresql+psycopg://", "postgresql://", 1)


@pytest.fixture
def connection(address: str) -> Iterator[Connection]:
    """A database with a fenced table, whose first rows are older than the trigger."""
    with psycopg.connect(address, autocommit=True) as opened:
        opened.execute(TABLE)
        opened.execute(postgres.fences_ddl())
        opened.execute(postgres.trigger_ddl("captures", key="payments/{customer}/collect").encode())
        yield opened


def floor(connection: Connection, key: str = KEY) -> int | None:
    return DbapiGuard(psycopg).highest(connection, key)


def write(connection: Connection, fence: int | None, statement: str) -> None:
    """One transaction as a worker makes it; it asks no guard."""
    with connection.transaction():
        if fence is not None:
            postgres.present(connection, fence)
        connection.execute(statement.encode())


INSERT = "INSERT INTO captures VALUES ('1234', 1999)"
UPDATE = "UPDATE captures SET amount = amount + 1 WHERE customer = '1234'"
DELETE = "DELETE FROM captures WHERE customer = '1234'"
MERGE = """MERGE INTO captures USING (VALUES ('1234')) AS new (customer) ON captures.customer = new.customer
WHEN MATCHED THEN DELETE"""
COPIED = "INSERT INTO captures SELECT * FROM captures WHERE customer = '1234'"
WRITES = pytest.mark.parametrize("statement", [INSERT, UPDATE, DELETE, MERGE, COPIED])


@WRITES
def test_a_stale_write_that_asked_nobody_is_refused(connection: Connection, statement: str) -> None:
    """time 0: fence 33 stalls; time 1: fence 34 raises the floor; time 2: 33 wakes up and writes, without a look at anything."""
    with connection.transaction():
        DbapiGuard(psycopg).raise_floor(connection, KEY, 34)
    with pytest.raises(psycopg.DatabaseError) as caught:
        write(connection, 33, statement)
    assert caught.value.diag.sqlstate == postgres.STALE
    stale = postgres.stale_of(caught.value)
    assert stale is not None
    assert (stale.key, stale.fence, stale.highest) == (KEY, 33, 34)
    rows = connection.execute("SELECT amount FROM captures ORDER BY amount").fetchall()
    assert rows == [(1,), (2,), (3,)]
    assert floor(connection) == 34


@WRITES
def test_a_write_without_a_fence_is_refused(connection: Connection, statement: str) -> None:
    """Code that forgot even to say its fence does not pass as whoever wrote the row before."""
    write(connection, 34, UPDATE)
    with pytest.raises(psycopg.DatabaseError, match="has not said its fence") as caught:
        write(connection, None, statement)
    assert caught.value.diag.sqlstate == postgres.NO_FENCE
    assert postgres.stale_of(caught.value) is None


@WRITES
def test_the_holder_writes_and_its_fence_is_the_floor(
    connection: Connection, statement: str
) -> None:
    """A fence that is high enough passes, an equal one too (the same holder, or another reader of a shared phase)."""
    write(connection, 34, statement)
    write(connection, 34, INSERT)
    assert floor(connection) == 34
    write(connection, 35, INSERT)
    assert floor(connection) == 35
    assert floor(connection, "payments/77/collect") is None


def test_the_fence_ends_with_its_transaction(connection: Connection) -> None:
    """What a session remembered would be said by the next worker that a pooler gives it to."""
    write(connection, 34, INSERT)
    with pytest.raises(psycopg.DatabaseError, match="has not said its fence"):
        write(connection, None, INSERT)
    with connection.transaction():
        connection.execute("SET LOCAL holdfast.fence = '34'")  # what any language can send
        connection.execute(INSERT)


def test_keys_have_floors_of_their_own(connection: Connection) -> None:
    """One row of many is stale: the statement is refused as a whole."""
    write(connection, 50, "UPDATE captures SET amount = 9 WHERE customer = '77'")
    write(connection, 40, INSERT)
    with pytest.raises(psycopg.DatabaseError) as caught:
        write(connection, 45, "UPDATE captures SET amount = 0")
    stale = postgres.stale_of(caught.value)
    assert stale is not None
    assert (stale.key, stale.highest) == ("payments/77/collect", 50)
    assert floor(connection) == 40, "a refusal moves no floor"


def test_moving_a_row_to_another_key_needs_the_fence_for_both(connection: Connection) -> None:
    """Neither out of the hands of a later holder, nor into them."""
    write(connection, 50, "UPDATE captures SET amount = 9 WHERE customer = '77'")
    for statement in (
        "UPDATE captures SET customer = '1234' WHERE customer = '77'",
        "UPDATE captures SET customer = '77' WHERE customer = '1234'",
    ):
        with pytest.raises(psycopg.DatabaseError) as caught:
            write(connection, 45, statement)
        assert caught.value.diag.sqlstate == postgres.STALE


@pytest.mark.parametrize("said", ["", "0", "-3", "many", "34.5", "9007199254740992", "1e3", "٣"])
def test_what_is_no_fence_is_refused(connection: Connection, said: str) -> None:
    """No fence never counts as allowed."""

    def say() -> None:
        with connection.transaction():
            connection.execute("SELECT set_config('holdfast.fence', %s, true)", (said,))
            connection.execute(INSERT)

    with pytest.raises(psycopg.DatabaseError) as caught:
        say()
    assert caught.value.diag.sqlstate == postgres.NO_FENCE


def test_a_lock_with_several_holders_has_nothing_to_present(connection: Connection) -> None:
    """Its grant's fence is None; that is refused by type, before the database sees anything."""
    with pytest.raises(TypeError, match="a lock with several holders has none"):
        postgres.present(connection, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "statement",
    ["INSERT INTO captures VALUES (NULL, 1)", "UPDATE captures SET customer = ''"],
)
def test_a_row_without_a_key_is_refused(connection: Connection, statement: str) -> None:
    """A customer that was forgotten must not make a key that all such rows share."""
    with pytest.raises(psycopg.DatabaseError, match="names no key"):
        write(connection, 34, statement)


def test_emptying_the_table_is_refused(connection: Connection) -> None:
    """TRUNCATE fires no trigger for rows; it would be the way around."""
    with pytest.raises(psycopg.DatabaseError, match="is not truncated"):
        write(connection, 99, "TRUNCATE captures")


@pytest.mark.parametrize("floor_is_raised", [False, True])
def test_a_write_that_is_not_committed_keeps_the_next_holder_from_the_floor(
    connection: Connection, address: str, floor_is_raised: bool
) -> None:
    """time 0: fence 33 has written and not committed; time 1: fence 34 raises the floor, and waits; time 2: 33 commits. So what 34
    reads after its `raise_floor` is all that there will ever be of 33."""
    seen: list[Any] = []
    if floor_is_raised:
        with connection.transaction():
            DbapiGuard(psycopg).raise_floor(connection, KEY, 33)

    def later() -> None:
        with psycopg.connect(address) as other:
            DbapiGuard(psycopg).raise_floor(other, KEY, 34)
            seen.extend(other.execute("SELECT count(*) FROM captures").fetchall())

    thread = threading.Thread(target=later)
    with connection.transaction():
        postgres.present(connection, 33)
        connection.execute(INSERT)
        thread.start()
        until_somebody_waits(connection)
    thread.join()
    assert seen == [(4,)]
    with pytest.raises(psycopg.DatabaseError):
        write(connection, 33, INSERT)


def until_somebody_waits(connection: Connection) -> None:
    """Another connection is blocked: only the database can tell."""
    for _ in range(10_000):
        waiting = connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        connection.execute("SELECT pg_stat_clear_snapshot()")
        if waiting.fetchone():
            return
    raise AssertionError("nobody ever waited")


def test_sqlalchemy_code_that_forgot_is_refused_too(
    connection: Connection, postgres_url: str
) -> None:
    """The same trigger, with the table of `SqlGuard`, on the connection that SQLAlchemy has."""
    engine = create_engine(postgres_url)
    guard = SqlGuard(fences_table(MetaData()))
    with engine.begin() as later:
        guard.raise_floor(later, KEY, 34)
        postgres.present(later.connection, 34)
        later.execute(text(INSERT))
    with engine.connect() as early:
        postgres.present(early.connection, 33)
        with pytest.raises(DBAPIError) as caught:
            early.execute(text(INSERT))
    stale = postgres.stale_of(caught.value)
    assert isinstance(stale, Stale)
    assert (stale.key, stale.highest) == (KEY, 34)
    engine.dispose()


def test_the_ddl_can_be_run_again_and_taken_back(connection: Connection) -> None:
    """Migrations repeat; and the owner of the table can always take the trigger off."""
    connection.execute(postgres.trigger_ddl("captures", key="{customer}").encode())
    write(connection, 5, INSERT)
    assert floor(connection, "1234") == 5
    connection.execute(postgres.drop_trigger_ddl("captures").encode())
    write(connection, None, INSERT)


def test_odd_names_are_quoted(address: str) -> None:
    """Schemas, tables and columns as they come; a quote in them does not end the statement."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "my ""s"')
        connection.execute('CREATE TABLE "my ""s"."Order" ("the id" int, "select" text)')
        connection.execute(postgres.fences_ddl(schema='my "s', fences="floors of'").encode())
        ddl = postgres.trigger_ddl(
            "Order", key="it's/{the id}/{select}", schema='my "s', fences="floors of'"
        )
        connection.execute(ddl.encode())
        write(connection, 3, """INSERT INTO "my ""s"."Order" VALUES (7, 'x')""")
        found = connection.execute("""SELECT * FROM "my ""s"."floors of'" """).fetchall()
        assert found == [("it's/7/x", 3)]


def test_a_temporary_table_cannot_stand_in_for_the_floors(connection: Connection) -> None:
    """Names carry their schema: otherwise whoever may create a temporary table would bring his own floors."""
    write(connection, 34, INSERT)
    connection.execute("CREATE TEMPORARY TABLE fences (key text PRIMARY KEY, fence bigint)")
    with pytest.raises(psycopg.DatabaseError) as caught:
        write(connection, 33, INSERT)
    assert caught.value.diag.sqlstate == postgres.STALE


@pytest.mark.parametrize(
    ("table", "key", "reason"),
    [
        ("captures", "no column", "at least one column"),
        ("captures", "{}", "names columns as"),
        ("captures", "{a!r}", "names columns as"),
        ("captures", "{a:>3}", "names columns as"),
        ("captures", "$holdfast$ {a}", "without"),
        ("captures", "100%/{a}", "without"),
        ("captures", "back\\slash/{a}", "without"),
        ("x" * 60, "{a}", "does not fit"),
        ("", "{a}", "does not fit"),
    ],
)
def test_what_cannot_be_generated_safely_is_refused(table: str, key: str, reason: str) -> None:
    """A wrong template is an error when the DDL is made, not when the first payment is written."""
    with pytest.raises(ValueError, match=reason):
        postgres.trigger_ddl(table, key=key)


def test_other_errors_are_not_stale(connection: Connection) -> None:
    """Only the trigger's own code is a refusal."""
    with pytest.raises(psycopg.DatabaseError) as caught:
        connection.execute("SELECT 1 / 0")
    assert postgres.stale_of(caught.value) is None
    assert postgres.stale_of(ValueError("x")) is None
