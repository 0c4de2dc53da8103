"""The ledger of a live run: the real one, in a file that all client processes share; and what it has decided, read back at the end.

Rule: a worker's process has the messages in the same order as every other one, so that each payment comes to all of them; what one
has captured the others find captured. The control (`ledger-without-fence`) is a table to which rows are added. The order of
decisions is that of the rows, which the database counts inside its transactions.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.workloads.ledger import (
    FENCED,
    UNFENCED,
    Answer,
    GuardedBooks,
    Messages,
    Shop,
    Write,
)

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast_jepsen.history import History
    from holdfast_jepsen.workloads.mix import Mix

FILE = "ledger.db"
BUSY_SECONDS = 10.0
"""A writer waits so long for another process's transaction."""
VISIBLE_AGAIN_NS = 2_000_000_000


class UnguardedFile:
    """As `UnguardedBooks`, shared by processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run("CREATE TABLE IF NOT EXISTS captures (payment TEXT, key TEXT, fence INTEGER)")

    def raise_floor(self, key: str, fence: int) -> Answer:
        del key, fence
        return "ok"

    def is_captured(self, payment: str) -> bool:
        return bool(self._run("SELECT 1 FROM captures WHERE payment = ?", payment))

    def capture(self, key: str, payment: str, fence: int) -> Answer:
        self._run("INSERT INTO captures VALUES (?, ?, ?)", payment, key, fence)
        return "ok"

    def close(self) -> list[str]:
        return []

    def _run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self._path, timeout=BUSY_SECONDS)) as database, database:
            return database.execute(statement, values).fetchall()


def shop_for(mix: Mix, directory: Path, seed: int) -> Shop | None:
    """Of one client process; None: the workload has no ledger."""
    if mix.name not in (FENCED, UNFENCED):
        return None
    path = directory / FILE
    books = GuardedBooks(f"sqlite:///{path}") if mix.name == FENCED else UnguardedFile(path)
    # One stream for all of them: the same messages in the same order, and nearly at the same time. Answers are lost by another
    # one: how often a process asks changes nothing of the order.
    messages = Messages(mix.keys, Rng(seed, "messages"), visible_again_ns=VISIBLE_AGAIN_NS)
    return Shop(books, messages, Rng(seed, "lost answers"))


def decided(mix: Mix, directory: Path, history: History) -> tuple[list[Write], list[str]]:
    """(what the ledger accepted, in the order of its decisions; sentences about books that do not balance)"""
    path = directory / FILE
    if mix.name not in (FENCED, UNFENCED) or not path.exists():
        return [], []
    owners = {
        (key, each.token): each.process
        for each in history.operations
        if each.kind == "acquire" and each.result == "ok"
        for key in each.keys
    }
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
        if mix.name == UNFENCED:
            rows = database.execute("SELECT key, payment, fence FROM captures ORDER BY rowid")
            floors: list[tuple[str, str, int]] = []
        else:
            rows = database.execute("SELECT customer, payment, fence FROM payments ORDER BY rowid")
            floors = database.execute("SELECT key, '', fence FROM fences").fetchall()
        accepted = [*rows.fetchall(), *floors]
    problems = GuardedBooks(f"sqlite:///{path}").close() if mix.name == FENCED else []
    writes = [
        Write(owners.get((key, fence), "nobody"), key, payment, fence, 0, "ok")
        for key, payment, fence in accepted
    ]
    return writes, problems
