"""The tables of a result, which a terminal and the page tell each in its own way.

Rule: a table is a grid of texts. What was not measured is an empty cell, so that no other moves; a line without any is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from failover import TARGETS_MS
from peers import CONTENDERS


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` and `rows` are (name, how it is told); a cell that was not measured is empty."""

    title: str
    columns: list[tuple[Any, str]]
    rows: list[tuple[str, str]]
    cells: dict[tuple[str, Any], str]

    def grid(self) -> list[list[str]]:
        """The heads of the columns, then the lines that have a cell at all."""
        lines = [["", *(told for _, told in self.columns)]]
        for name, label in self.rows:
            cells = [self.cells.get((name, column), "") for column, _ in self.columns]
            if any(cells):
                lines.append([label, *cells])
        return lines


TITLES = [(each.name, each.title) for each in CONTENDERS]
ENGINES = [
    ("prototype", "the throw-away prototype"),
    ("engine", "the engine, a machine that does nothing"),
    ("node", "a node: the same with the lock table"),
]


def tables(result: dict[str, Any]) -> Iterator[Table]:
    measured = result["measurements"]
    if "cycles" in measured:
        rows = {(row["contender"], row["workers"]): row for row in measured["cycles"]["rows"]}
        yield _by_count(
            "Lock cycles a second (acquire p50 in ms) with so many workers",
            TITLES,
            {
                at: f"{row['per_second']:,.0f} ({row['acquire_p50_ms']:.2f})"
                for at, row in rows.items()
            },
        )
        yield _by_count(
            "Microseconds of CPU that one cycle costs (client + all servers) with so many workers",
            TITLES,
            {
                at: f"{_cost(row, 'cpu_client')} + {_cost(row, 'cpu_server')}"
                for at, row in rows.items()
            },
        )
    if "engine" in measured:
        rows = {(row["who"], row["in_flight"]): row for row in measured["engine"]["rows"]}
        yield _by_count(
            "Operations a second of the log alone (p50 in ms), in the process of the leader, with so many in flight",
            ENGINES,
            {at: f"{row['rate']:,.0f} ({row['p50_ms']:.2f})" for at, row in rows.items()},
        )
        yield _by_count(
            "Milliseconds that a sync of the leader's journal took meanwhile",
            ENGINES,
            {at: f"{row['sync_ms']:.2f}" for at, row in rows.items()},
        )
    if "overload" in measured:
        yield _overload_table(measured["overload"])
    if "failover" in measured:
        rows = {(row["contender"], row["kind"]): row for row in measured["failover"]["rows"]}
        yield Table(
            "Milliseconds in which nobody gets a lock, p50 (longest), when the leader is",
            [(kind, kind) for kind in TARGETS_MS],
            [(each.name, each.service) for each in CONTENDERS],
            {at: f"{row['p50_ms']:,.0f} ({row['max_ms']:,.0f})" for at, row in rows.items()},
        )


def _by_count(title: str, rows: list[tuple[str, str]], cells: dict[tuple[str, Any], str]) -> Table:
    return Table(title, [(n, str(n)) for n in sorted({n for _, n in cells})], rows, cells)


def _cost(row: dict[str, Any], part: str) -> str:
    return f"{row[part] / row['per_second'] * 1e6:,.0f}"


OVERLOAD_COLUMNS = {
    "callers": ("callers", "{:,}"),
    "per_second": ("cycles/s", "{:,.0f}"),
    "acquire_p99_ms": ("acquire p99, ms", "{:,.0f}"),
    "refused_per_second": ("refused/s", "{:,.0f}"),
    "refused_p99_ms": ("refused p99, ms", "{:,.0f}"),
    "mib_max": ("MiB of a node", "{:,.0f}"),
}


def _overload_table(measured: dict[str, Any]) -> Table:
    cells = {
        (row["load"], key): form.format(row[key])
        for row in measured["rows"]
        for key, (_, form) in OVERLOAD_COLUMNS.items()
        if row[key] is not None
    }
    columns = [(key, head) for key, (head, _) in OVERLOAD_COLUMNS.items()]
    return Table(
        "Overload", columns, [(row["load"], row["load"]) for row in measured["rows"]], cells
    )
