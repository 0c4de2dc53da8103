"""A fence guard for anybody's SQL tables: one small table beside them, checked in the transaction that writes them.

The rule: `raise_floor` is the FIRST statement of the transaction that it protects, on the same connection. It both checks and
locks: the row of the key stays locked until that transaction ends, so two holders of one key write one after the other, and the
later fence wins whatever the order of their arrival.

    guard = SqlGuard(fences_table(metadata))
    with engine.begin() as connection:
        guard.raise_floor(connection, "payments/1234/collect", grant.fence)
        connection.execute(...)         # your own tables

With an `AsyncConnection`: `await connection.run_sync(guard.raise_floor, key, grant.fence)`. The one statement runs on PostgreSQL
and SQLite alike. It needs SQLAlchemy (`pip install 'holdfast[ledger]'`), which is why it is a module of its own.

What it does not do: begin, commit or retry a transaction (they are the caller's), or delete rows. A row stays for every key
that was ever guarded. A row may go once the business record refuses a repeat by itself.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, CheckConstraint, Column, MetaData, String, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast import wire
from holdfast.fencing import Stale, checked_fence, checked_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

__all__ = ["DIALECTS", "SqlGuard", "fences_table", "insert_into"]

DIALECTS: Final = ("postgresql", "sqlite")
"""The dialects whose INSERT ... ON CONFLICT DO UPDATE ... WHERE ... RETURNING is known to do what `raise_floor` needs."""


def insert_into(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return the INSERT of the connection's dialect, which knows ON CONFLICT. Raises `NotImplementedError` for other dialects."""
    name = connection.dialect.name
    if name == "sqlite":
        return sqlite.insert(table)
    if name == "postgresql":
        return postgresql.insert(table)
    raise NotImplementedError(f"the fence guard runs on {' and '.join(DIALECTS)}, not on {name}")


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

    def __init__(self, table: Table) -> None:
        """`table` comes from `fences_table`, in the database of the tables that it protects."""
        self._table = table

    def raise_floor(self, connection: Connection, keys: str | Sequence[str], fence: int) -> None:
        """Move the floor of every key up to `fence`, or raise `Stale` and move none.

        An equal fence passes: it is the same holder again. Raises `NotImplementedError` for a database other than SQLite and
        PostgreSQL.
        """
        fence = checked_fence(fence)
        wanted = checked_keys(keys)
        # With several keys a refusal at the second must undo the first, also for a caller that catches `Stale` and commits.
        scope = connection.begin_nested() if len(wanted) > 1 else nullcontext()
        with scope:
            for key in wanted:
                self._raise_one(connection, key, fence)

    def highest(self, connection: Connection, key: str) -> int | None:
        """Return the highest fence seen for `key`; None if it was never presented."""
        row = connection.execute(
            select(self._table.c.fence).where(self._table.c.key == key)
        ).first()
        return None if row is None else int(row.fence)

    def _raise_one(self, connection: Connection, key: str, fence: int) -> None:
        """One statement decides: no row comes back exactly if the WHERE of the update refused it.

        Reading the floor and writing it in two statements would let a second holder in between. Here the conflicting row is
        locked first, and the comparison sees what its last writer committed.
        """
        insert = insert_into(connection, self._table).values(key=key, fence=fence)
        statement = insert.on_conflict_do_update(
            index_elements=[self._table.c.key],
            set_={"fence": insert.excluded.fence},
            where=self._table.c.fence <= insert.excluded.fence,
        ).returning(self._table.c.fence)
        if connection.execute(statement).first() is None:
            raise Stale(key, fence, self.highest(connection, key) or fence)
