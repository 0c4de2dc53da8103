"""The named points at which a process can be killed: where what is done and what is promised part company.

Rule: the process dies exactly there, by `Crashed`, as by SIGKILL or a power loss; nobody else learns of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS = (
    "before append", "after append", "before sync", "after sync", "before send", "after send",
    "before apply", "after apply", "before answer", "after answer",
    "before snapshot rename", "after snapshot rename", "before journal trim", "after journal trim",
)  # fmt: skip


class Trap:
    """Set for one point of one server: the `count`-th time that it passes there, it dies."""

    def __init__(
        self, point: str, count: int, *, loses_power: bool, on_fire: Callable[[], None]
    ) -> None:
        self.point = point
        self.loses_power = loses_power
        self._left = count
        self._on_fire = on_fire

    def is_sprung(self, point: str) -> bool:
        """It has come there."""
        if point != self.point:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self._on_fire()
        return True
