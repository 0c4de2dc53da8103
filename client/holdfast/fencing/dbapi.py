"""A fence guard for connections as the driver makes them: psycopg, sqlite3, and their like.

The rule is that of every guard: `raise_floor` is the FIRST statement of the transaction that it protects, on the same connection.

    guard = DbapiGuard(psycopg)
    with psycopg.connect(...) as connection, connection.transaction():
        guard.raise_floor(connection, "payments/1234/collect", grant.fence)
        connection.execute(...)         # your own tables

It takes the driver's module, because that is what names the parameter style (PEP 249). It does not begin, commit or retry a
transaction, and refuses a connection that has none and will not begin one.
"""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Protocol

from holdfast.fencing import checked_fence, checked_keys, refusals_told
from holdfast.fencing.statements import COLUMNS, Floors, rendered, returns_rows, unsupported
from holdfast.fencing.transactions import refuse_autocommit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.fencing import Stale

__all__ = ["DRIVERS", "Connection", "Cursor", "DbapiGuard", "Driver"]

DRIVERS: Final = {"psycopg": "postgresql", "psycopg2": "postgresql", "sqlite3": "sqlite"}
"""The drivers with which the guard is tested, and what they connect to."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?", re.ASCII)


class Driver(Protocol):
    """A module of PEP 249."""

    @property
    def __name__(self) -> str: ...
    @property
    def paramstyle(self) -> str: ...


class Cursor(Protocol):
    """What a guard uses of a cursor."""

    def execute(self, statement: Any, parameters: Any, /) -> object: ...
    def fetchall(self) -> list[Any]: ...
    def close(self) -> object: ...


class Connection(Protocol):
    """What a guard uses of a connection."""

    def cursor(self) -> Any: ...


class DbapiGuard:
    """Refuses stale fences in the transactions of one database."""

    def __init__(
        self,
        driver: Driver,
        *,
        table: str = "fences",
        on_refused: Callable[[Stale], object] | None = None,
    ) -> None:
        """`driver`: the module that made the connections. `table`: the guard's table, plain or with its schema (`create` makes
        it). `on_refused` is called with each refusal. Raises `NotImplementedError` for a driver that nobody has tried.
        """
        dialect = DRIVERS.get(driver.__name__)
        if dialect is None:
            raise unsupported(driver.__name__)
        if not _NAME.fullmatch(table):
            raise ValueError(f"a table is named by letters, digits and underscores, not {table!r}")
        self._dialect = dialect
        self._paramstyle = driver.paramstyle
        self._table = table
        self._on_refused = on_refused

    def create(self, connection: Connection) -> None:
        """Create the guard's table if it is missing. In PostgreSQL two that do so at once can disturb each other: do it when you
        create your own tables."""
        self._floors(connection).execute(f"CREATE TABLE IF NOT EXISTS {{table}} {COLUMNS}", {})

    def raise_floor(self, connection: Connection, keys: str | Sequence[str], fence: int) -> None:
        """Move the floor of every key up to `fence`, or raise `Stale` and move none.

        An equal fence passes: it is the same holder again, or (shared mode) another reader of the same phase. Raises `TypeError`
        for no fence at all, and `RuntimeError` for a connection that commits by itself.
        """
        fence = checked_fence(fence)
        wanted = checked_keys(keys)
        refuse_autocommit(connection)
        with refusals_told(self._on_refused):
            self._floors(connection).raise_all(wanted, fence)

    def highest(self, connection: Connection, key: str) -> int | None:
        """Return the highest fence seen for `key`; None if it was never presented."""
        return self._floors(connection).highest(key)

    def _floors(self, connection: Connection) -> Floors:
        def execute(template: str, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
            statement, parameters = rendered(
                template, values, table=self._table, paramstyle=self._paramstyle
            )
            cursor: Cursor
            with closing(connection.cursor()) as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if returns_rows(template) else ()

        return Floors(self._dialect, execute)
