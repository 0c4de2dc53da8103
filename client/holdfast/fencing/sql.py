"""A fence guard for SQLAlchemy, on anybody's SQL tables: one small table beside them, checked in the transaction that writes them.

The rule: `raise_floor` is the FIRST statement of the transaction that it protects, on the same connection. It both checks and
locks: the row of the key stays locked until that transaction ends, so two holders of one key write one after the other, and the
later fence wins whatever the order of their arrival.

    guard = SqlGuard(fences_table(metadata))
    with engine.begin() as connection:
        guard.raise_floor(connection, "payments/1234/collect", grant.fence)
        connection.execute(...)         # your own tables

With an `AsyncConnection`: `await connection.run_sync(guard.raise_floor, key, grant.fence)`. It runs on PostgreSQL and SQLite. It
needs SQLAlchemy (`pip install 'holdfast[ledger]'`), which is why it is a module of its own.

What it does not do: begin, commit or retry a transaction (they are the caller's), or delete rows. A row stays for every key
that was ever guarded. A row may go once the business record refuses a repeat by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, CheckConstraint, Column, MetaData, String, Table
from sqlalchemy.dialects import postgresql, sqlite

from holdfast import wire
from holdfast.fencing import checked_fence, checked_keys, refusals_told
from holdfast.fencing.statements import DIALECTS, Floors, rendered, unsupported
from holdfast.fencing.transactions import refuse_autocommit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from holdfast.fencing import Stale

__all__ = ["DIALECTS", "SqlGuard", "fences_table", "insert_into"]


def insert_into(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return the INSERT of the connection's dialect, which knows ON CONFLICT. Raises `NotImplementedError` for other dialects."""
    name = connection.dialect.name
    if name == "sqlite":
        return sqlite.insert(table)
    if name == "postgresql":
        return postgresql.insert(table)
    raise unsupported(name)


def fences_table(metadata: MetaData, name: str = "fences") -> Table:
    """Declare the guard's table in `metadata`: `key` (primary key) and `fence`, the highest seen."""
    return Table(
        name,
        metadata,
        Column("key", String(wire.KEY_BYTES_MAX), primary_key=True),
        Column("fence", BigInteger, CheckConstraint("fence >= 1"), nullable=False),
    )


class SqlGuard:
    """Refuses stale fences in the transactions of one database."""

    def __init__(
        self, table: Table, *, on_refused: Callable[[Stale], object] | None = None
    ) -> None:
        """`table` comes from `fences_table`, in the database of the tables that it protects. `on_refused` is called with each
        refusal."""
        self._table = table
        self._on_refused = on_refused

    def raise_floor(self, connection: Connection, keys: str | Sequence[str], fence: int) -> None:
        """Move the floor of every key up to `fence`, or raise `Stale` and move none.

        An equal fence passes: it is the same holder again, or (shared mode) another reader of the same phase. Raises `TypeError`
        for no fence at all, `NotImplementedError` for a database other than SQLite and PostgreSQL, and `RuntimeError` for a
        connection that commits by itself.
        """
        fence = checked_fence(fence)
        wanted = checked_keys(keys)
        floors = self._floors(connection)
        # Of an asynchronous driver the one is SQLAlchemy's wrapper around the other, and each knows a part.
        refuse_autocommit(connection.connection.dbapi_connection)
        refuse_autocommit(connection.connection.driver_connection)
        with refusals_told(self._on_refused):
            floors.raise_all(wanted, fence)

    def highest(self, connection: Connection, key: str) -> int | None:
        """Return the highest fence seen for `key`; None if it was never presented."""
        return self._floors(connection).highest(key)

    def _floors(self, connection: Connection) -> Floors:
        dialect = connection.dialect
        if dialect.name not in DIALECTS:
            raise unsupported(dialect.name)

        def execute(template: str, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
            statement, parameters = rendered(
                template,
                values,
                table=dialect.identifier_preparer.format_table(self._table),
                paramstyle=dialect.paramstyle,
            )
            result = connection.exec_driver_sql(statement, parameters or None)
            return result.all() if result.returns_rows else ()

        return Floors(dialect.name, execute)
