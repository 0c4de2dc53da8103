"""Which operations act: each (node, boot, sequence) once, without gaps.

Rule: an operation is live if it continues its node's present boot (sequence = last + 1) or opens a newer boot (sequence = 1).
Everything else is skipped without an outcome: seen before, sent by an older boot, or past a gap. A gap is skipped because
acting on it would let what is missing act never, though its sender is told that order is kept.
"""

from __future__ import annotations

from .limits import NODE_CHARS_MAX, ORIGINS_MAX
from .operations import Origin


class OriginBook:
    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: dict[str, tuple[int, int]] = {}

    def admit(self, origin: Origin) -> bool | None:
        """Advance past this origin if it is live. False: skip. True: live. None: live, and the first of a newer boot."""
        node, boot, sequence = origin
        last = self.last.get(node)
        if last == (boot, sequence - 1):
            self.last[node] = (boot, sequence)
            return True
        if sequence != 1 or (last is not None and boot <= last[0]):
            return False
        if last is None and (len(self.last) >= ORIGINS_MAX or len(node) > NODE_CHARS_MAX):
            return False
        self.last[node] = (boot, sequence)
        return None
