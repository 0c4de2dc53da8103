"""The tables, and how they come into being.

Rules: made on first use, by whoever comes first, in one transaction that the others wait for. `holdfast_store` has the version: a
library that does not know it refuses to go on. Instants are milliseconds by the clock of the DATABASE (`now_ms`), so that clients
need not agree on the time. Nothing here grows with the number of locks there ever were: see `transactions.sweep`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    Text,
    insert,
    select,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from holdfast import wire
from holdfast.stores.base import Refusal
from holdfast.wire import Code

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION: Final = 1
CREATION_LOCK: Final = 0x686F6C64
"""The name ("hold") of PostgreSQL's transaction-level lock for the creation of the tables; it ends with that transaction."""

metadata = MetaData()

_KEY = String(wire.KEY_BYTES_MAX).with_variant(
    String(wire.KEY_BYTES_MAX, collation="C"), "postgresql"
)  # bytes, in the order in which Python sorts text: several keys are always locked in one order

store = Table(
    "holdfast_store",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("swept_ms", BigInteger, nullable=False),
)
"""One row. `token` and `number` are the counters where there are no sequences (SQLite)."""

sessions = Table(
    "holdfast_sessions",
    metadata,
    Column("id", String(wire.SESSION_ID_CHARS_MAX), primary_key=True),
    Column("ttl_ms", BigInteger, nullable=False),
    Column("owner", Text),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("settled", BigInteger, nullable=False),
    Column("ended", String(8)),
)
"""`ended`: null, `released`, or `expired` once somebody has acted on it."""

locks = Table(
    "holdfast_locks",
    metadata,
    Column("key", _KEY, primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("session", String(wire.SESSION_ID_CHARS_MAX)),
    Column("owner", Text),
    Column("ended", String(8)),
)
"""The last hold of each key. `ended` null: it lasts as long as its session; `never`: there was none, only a row to be locked."""
Index("holdfast_locks_session", locks.c.session, locks.c.token)

requests = Table(
    "holdfast_requests",
    metadata,
    Column("session", String(wire.SESSION_ID_CHARS_MAX), primary_key=True),
    Column("request_id", BigInteger, primary_key=True, autoincrement=False),
    Column("fingerprint", String(32)),
    Column("names", Text, nullable=False),
    Column("state", String(8), nullable=False),
    Column("token", BigInteger),
    Column("number", BigInteger),
    Column("outcome", Text),
)
"""What became of an acquire: `waiting` (with its number), `granted` (token, also when it was released since), `refused`.
`fingerprint` null: cancelled before it came."""

queue = Table(
    "holdfast_queue",
    metadata,
    Column("key", _KEY, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("session", String(wire.SESSION_ID_CHARS_MAX), nullable=False),
    Column("owner", Text),
    Column("names", Text, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
)
"""Waiters: one row for each key that one waits for. Numbers are the order of arrival."""
Index("holdfast_queue_session", queue.c.session)
Index("holdfast_queue_number", queue.c.number)

tokens = Sequence("holdfast_tokens", metadata=metadata, start=1)
numbers = Sequence("holdfast_numbers", metadata=metadata, start=1)


class now_ms(FunctionElement[int]):
    """Milliseconds by the database's clock at this moment (not at the beginning of the transaction)."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "postgresql")
def _now_postgresql(element: object, compiler: object, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(now_ms, "sqlite")
def _now_sqlite(element: object, compiler: object, **options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


def create(connection: Connection) -> None:
    """Make what is missing. Raises `Refusal` if the tables are of another version."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": CREATION_LOCK})
    metadata.create_all(connection)
    version = connection.execute(select(store.c.version)).scalar()
    if version is None:
        row = {"id": 1, "version": VERSION, "token": 0, "number": 0, "swept_ms": 0}
        connection.execute(insert(store).values(row))
    elif version != VERSION:
        raise Refusal(
            Code.CONFLICT,
            f"the tables of the store have version {version}, and this library knows version {VERSION}",
            field="version",
        )
