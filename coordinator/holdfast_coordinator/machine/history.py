"""What is deliberately remembered of things that have ended, all of it bounded.

Three memories: per key the last ended hold (`previous`), per token how its hold ended (for a repeated release; of a forced one
also its keys and its floor, for a repeated force), per session id how it ended. Rule: whatever is dropped from `previous` is at
or below `horizon`, so "none remembered" is never mistaken for "there was none". This module does not know sessions or locks,
only names and numbers.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush

from msgspec.structs import replace

from .limits import DEADLINES_SLACK, Limits
from .outcomes import UNCLEAN, Ended, Previous


class History:
    __slots__ = (
        "ended_order",
        "ended_sessions",
        "ended_sessions_max",
        "ending_order",
        "endings",
        "endings_max",
        "forced",
        "horizon",
        "previous",
        "previous_heap",
        "previous_max",
    )

    def __init__(self, limits: Limits) -> None:
        self.previous_max = limits.previous_max
        self.endings_max = limits.endings_max
        self.ended_sessions_max = limits.ended_sessions_max
        self.previous: dict[str, Previous] = {}
        self.previous_heap: list[tuple[int, str]] = []
        self.horizon = 0
        self.endings: dict[int, tuple[str, Ended]] = {}
        self.ending_order: deque[int] = deque()
        self.forced: dict[int, tuple[tuple[str, ...], int]] = {}  # as long as in `endings`
        self.ended_sessions: dict[str, Ended] = {}
        self.ended_order: deque[str] = deque()

    def hold_ended(
        self,
        token: int,
        session: str,
        keys: tuple[str, ...],
        ended: Ended,
        floor: int | None = None,
    ) -> None:
        previous, heap, endings = self.previous, self.previous_heap, self.endings
        ending = Previous(token, ended, floor)
        for key in keys:
            previous[key] = ending
            heappush(heap, (token, key))
        endings[token] = (session, ended)
        self.ending_order.append(token)
        if floor is not None:
            self.forced[token] = (keys, floor)
        while len(endings) > self.endings_max:
            oldest = self.ending_order.popleft()
            del endings[oldest]
            self.forced.pop(oldest, None)
        while len(previous) > self.previous_max:
            self._drop_oldest()
        if len(heap) > 2 * len(previous) + DEADLINES_SLACK:
            self.rebuild_heap()

    def is_unclean(self, key: str) -> bool:
        """Whether the last hold of `key` that is remembered ended uncleanly, and nobody has looked into it."""
        previous = self.previous.get(key)
        return previous is not None and previous.ended in UNCLEAN and not previous.resolved

    def resolve(self, key: str, token: int) -> bool:
        """Somebody has looked into the unclean end of this hold. False: it is not the last one of `key`, or ended cleanly."""
        previous = self.previous.get(key)
        if previous is None or previous.token != token or not self.is_unclean(key):
            return False
        self.previous[key] = replace(previous, resolved=True)
        return True

    def session_ended(self, session: str, ended: Ended) -> None:
        self.ended_sessions[session] = ended
        self.ended_order.append(session)
        while len(self.ended_sessions) > self.ended_sessions_max:
            del self.ended_sessions[self.ended_order.popleft()]

    def rebuild_heap(self) -> None:
        self.previous_heap = [(previous.token, key) for key, previous in self.previous.items()]
        heapify(self.previous_heap)

    def _drop_oldest(self) -> None:
        """Forget the key whose last hold has the smallest token; items of the heap that were superseded are passed over."""
        while True:
            token, key = heappop(self.previous_heap)
            previous = self.previous.get(key)
            if previous is not None and previous.token == token:
                del self.previous[key]
                self.horizon = max(self.horizon, token)
                return
