"""The verdict on a demo: what was promised, whether each promise was kept, and the figures.

The rule: the books decide, not what the workers said. `ok` is true only if every promise was kept; the exit code follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.demo.books import FencedBooks
from holdfast_ledger import Unbalanced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_coordinator.demo.books import Books
    from holdfast_coordinator.demo.messages import Intake, Message
    from holdfast_coordinator.demo.scene import Scene


@dataclass(frozen=True)
class Summary:
    """The figures in the order in which they are shown, and the promises with their verdicts."""

    figures: dict[str, int | float | str | bool | None]
    promises: tuple[tuple[str, bool], ...]
    twice: tuple[tuple[str, int], ...]
    """Payments that stand in the books more than once, and how often."""

    @property
    def ok(self) -> bool:
        return all(kept for _, kept in self.promises)

    def as_json(self) -> dict[str, Any]:
        """Return one object for scripts."""
        return {
            "ok": self.ok,
            **self.figures,
            "recorded_twice": [
                {"payment": payment, "times": times} for payment, times in self.twice
            ],
            "promises": [{"promise": promise, "kept": kept} for promise, kept in self.promises],
        }


def summarise(intake: Intake, scene: Scene, books: Books, rejected: Sequence[Message]) -> Summary:
    """Judge a finished demo. `rejected` are the messages that were refused for good, such as a refund of nothing."""
    times = books.times_recorded()
    orders = {message.order for message in intake.messages}
    refused_orders = {message.order for message in rejected} - times.keys()
    due = orders - refused_orders
    once = sum(times.get(order, 0) == 1 for order in due)
    twice = tuple(
        (f"{action} {payment}", count)
        for (payment, action), count in sorted(times.items())
        if count > 1
    )
    missing = sum(order not in times for order in due)
    balanced = _balance_verdict(books)
    frozen = scene.frozen
    figures: dict[str, int | float | str | bool | None] = {
        "messages": len(intake.messages),
        "malformed_lines": intake.malformed_count,
        "payments": len(due),
        "captured_once": once,
        "captured_more_than_once": len(twice),
        "not_captured": missing,
        "duplicates_ignored": scene.duplicates,
        "answered_already_done": scene.already_done,
        "conflicting_duplicates": scene.conflicting,
        "refused_for_good": sum(scene.rejected.values()),
        "delivered_again": scene.redelivered,
        "stale_writes_refused": scene.stale_writes,
        "frozen_worker": None if frozen is None else frozen.worker,
        "late_write": None if frozen is None else frozen.late_write,
        "leader_killed": scene.leader_killed,
        "longest_without_grant_seconds": round(scene.gaps.longest_seconds, 2),
        "ledger_balanced": balanced,
    }
    promises = (
        ("every payment is in the books", missing == 0),
        ("none of them twice", not twice and once == len(due)),
        ("no message is left over", scene.settled == len(intake.messages)),
        (
            "the leader was killed, and came back",
            scene.leader_killed is not None and scene.leader_back,
        ),
        ("a frozen worker was overtaken", frozen is not None and frozen.overtaken_by is not None),
        (
            "its late write was refused as stale",
            scene.stale_writes >= 1 and frozen is not None and frozen.late_write == "stale",
        ),
        ("the ledger balances", balanced),
    )
    return Summary(figures, promises, twice)


def _balance_verdict(books: Books) -> bool:
    """The naive table has no second side, so there is nothing that could balance."""
    if not isinstance(books, FencedBooks):
        return False
    try:
        books.ledger.check_balanced()
    except Unbalanced:
        return False
    return sum(books.ledger.balances().values()) == 0
