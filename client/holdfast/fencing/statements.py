"""The SQL of a guard, once for every library that sends it: what is said to the database, and in which order.

The rule: what decides is one statement for a key, never a look and then a write. No row comes back exactly if the WHERE of the
update refused it; the conflicting row is locked first, and the comparison sees what its last writer committed. Several keys move
all or none, on each database in its own way:

* PostgreSQL: one statement a key, in the order of the keys, within a savepoint.
* SQLite: one statement for all of them. No savepoint: Python's driver begins a transaction only at the first INSERT, and a
  savepoint outside a transaction IS one: releasing it would commit the floors and unlock them before anything is written.

It knows no connection: `execute` is a port that sends a statement and returns its rows.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from holdfast import wire
from holdfast.fencing import Stale

__all__ = [
    "COLUMNS",
    "DIALECTS",
    "Execute",
    "Floors",
    "Parameters",
    "rendered",
    "returns_rows",
    "unsupported",
]

DIALECTS: Final = ("postgresql", "sqlite")
"""The dialects whose INSERT ... ON CONFLICT DO UPDATE ... WHERE ... RETURNING is known to do what a guard needs."""

Parameters = Mapping[str, object] | Sequence[object]
Execute = Callable[[str, Mapping[str, object]], Sequence[Sequence[Any]]]
"""Sends a template (`{table}` and parameters in braces) with named values, and returns every row."""

COLUMNS: Final = (
    f"(key VARCHAR({wire.KEY_BYTES_MAX}) PRIMARY KEY, fence BIGINT NOT NULL CHECK (fence >= 1))"
)
"""The guard's table, for CREATE TABLE."""

_RAISE_ONE: Final = (
    "INSERT INTO {table} AS floors (key, fence) VALUES ({key}, {fence}) "
    "ON CONFLICT (key) DO UPDATE SET fence = excluded.fence WHERE floors.fence <= excluded.fence "
    "RETURNING fence"
)
_RAISE_TOGETHER: Final = (
    # INSERT is the first word, since it is what makes Python's driver begin the transaction.
    "INSERT INTO {table} AS floors (key, fence) WITH wanted(key) AS (VALUES {wanted}) "
    "SELECT key, {fence} FROM wanted WHERE NOT EXISTS "
    "(SELECT 1 FROM {table} AS seen WHERE seen.key IN (SELECT key FROM wanted) AND seen.fence > {fence}) "
    "ON CONFLICT (key) DO UPDATE SET fence = excluded.fence WHERE floors.fence <= excluded.fence "
    "RETURNING fence"
)
_HIGHEST: Final = "SELECT fence FROM {table} WHERE key = {key}"
_SAVEPOINT: Final = "SAVEPOINT holdfast_floors"
_UNDO: Final = "ROLLBACK TO SAVEPOINT holdfast_floors"
_RELEASE: Final = "RELEASE SAVEPOINT holdfast_floors"


def unsupported(database: str) -> NotImplementedError:
    """The error for a database that nobody has tried."""
    return NotImplementedError(
        f"the fence guard runs on {' and '.join(DIALECTS)}, not on {database}"
    )


@dataclass(frozen=True, slots=True)
class Floors:
    """The floors of one database, as one of `DIALECTS` speaks about them."""

    dialect: str
    execute: Execute

    def raise_all(self, keys: Sequence[str], fence: int) -> None:
        """Move the floors of `keys` (checked, in order) up to `fence`, or raise `Stale` and move none."""
        if len(keys) == 1:
            self._raise_one(keys[0], fence)
        elif self.dialect == "sqlite":
            self._raise_together(keys, fence)
        else:
            self._raise_in_savepoint(keys, fence)

    def highest(self, key: str) -> int | None:
        """The highest fence seen for `key`; None if it was never presented."""
        rows = self.execute(_HIGHEST, {"key": key})
        return int(rows[0][0]) if rows else None

    def _raise_one(self, key: str, fence: int) -> None:
        if not self.execute(_RAISE_ONE, {"key": key, "fence": fence}):
            raise Stale(key, fence, self.highest(key) or fence)

    def _raise_in_savepoint(self, keys: Sequence[str], fence: int) -> None:
        """A refusal at the second key must undo the first, also for a caller that catches `Stale` and commits.

        Any other error leaves the transaction broken, as an error in PostgreSQL does: only the caller can roll it back.
        """
        self.execute(_SAVEPOINT, {})
        try:
            for key in keys:
                self._raise_one(key, fence)
        except Stale:
            self.execute(_UNDO, {})
            self.execute(_RELEASE, {})
            raise
        self.execute(_RELEASE, {})

    def _raise_together(self, keys: Sequence[str], fence: int) -> None:
        """SQLite has one writer, so what the statement sees at its start is what it changes: all rows come back, or none."""
        names = {f"key_{number}": key for number, key in enumerate(keys)}
        wanted = ", ".join(f"({{{name}}})" for name in names)
        template = _RAISE_TOGETHER.replace("{wanted}", wanted)
        moved = self.execute(template, {**names, "fence": fence})
        if not moved:
            floors = ((key, self.highest(key) or 0) for key in keys)
            key, highest = next((key, floor) for key, floor in floors if floor > fence)
            raise Stale(key, fence, highest)


def returns_rows(template: str) -> bool:
    """Whether the answer to a statement is rows. A driver cannot always tell: psycopg in a pipeline knows only when it is asked."""
    return template.startswith("SELECT") or "RETURNING" in template


def rendered(
    template: str, values: Mapping[str, object], *, table: str, paramstyle: str
) -> tuple[str, Parameters]:
    """Return `template` in one of the parameter styles of PEP 249, and its values in the shape that the style wants.

    `table` is quoted by the caller, as the style wants it (SQLAlchemy doubles a percent sign by itself). Raises
    `NotImplementedError` for a style that PEP 249 does not know.
    """
    order: list[str] = []
    pieces: list[str] = []
    if paramstyle in ("format", "pyformat"):
        template = template.replace("%", "%%")
    for literal, name, _spec, _conversion in string.Formatter().parse(template):
        pieces.append(literal)
        if name == "table":
            pieces.append(table)
        elif name is not None:
            order.append(name)
            pieces.append(_mark(paramstyle, name, len(order)))
    if paramstyle in ("named", "pyformat"):
        return "".join(pieces), {name: values[name] for name in order}
    return "".join(pieces), tuple(values[name] for name in order)


def _mark(paramstyle: str, name: str, number: int) -> str:
    marks = {
        "qmark": "?",
        "format": "%s",
        "numeric": f":{number}",
        "numeric_dollar": f"${number}",  # what SQLAlchemy calls the style of asyncpg
        "named": f":{name}",
        "pyformat": f"%({name})s",
    }
    if paramstyle not in marks:
        raise NotImplementedError(f"parameter style {paramstyle!r} is none of PEP 249")
    return marks[paramstyle]
