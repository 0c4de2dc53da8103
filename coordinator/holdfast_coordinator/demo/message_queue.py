"""An at-least-once queue, as every real one is: a message whose taker does not say in time that it is done goes to another.

The rule: a message is ready, delayed, leased, or settled, and only an ack or a rejection of its CURRENT delivery settles it. So a
message is never lost, and may be worked on twice; that is the trouble that the lock and the fence are for. Time comes in as `now`
(seconds of any clock that only rises). It knows neither processes nor locks.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_coordinator.demo.messages import Message


@dataclass(frozen=True)
class Delivery:
    """One handing-out of a message. `attempt` counts from 1."""

    number: int
    index: int
    message: Message
    attempt: int


@dataclass(frozen=True)
class _Lease:
    delivery: Delivery
    worker: str
    expires_at: float


class MessageQueue:
    """The queue over a fixed list of messages (so it is bounded by it)."""

    def __init__(self, messages: Sequence[Message], *, visibility_seconds: float) -> None:
        """`visibility_seconds`: how long a delivery is hidden from the other workers."""
        self._messages = tuple(messages)
        self._visibility_seconds = visibility_seconds
        self._ready = deque(range(len(self._messages)))
        self._delayed: list[tuple[float, int]] = []
        self._leases: dict[int, _Lease] = {}
        self._attempts: Counter[int] = Counter()
        self._deliveries = 0
        self._unsettled_by_key = Counter(message.lock_key for message in self._messages)
        self._open_orders = Counter(message.order for message in self._messages)
        self.settled = 0
        self.redelivered = 0
        """Deliveries that were not the first of their message."""
        self.rejected: dict[int, str] = {}
        """Messages that were given up, by index, and why."""

    @property
    def is_done(self) -> bool:
        return self.settled == len(self._messages)

    def take(self, worker: str, now: float) -> Delivery | None:
        """Hand out the next message, or None if none is ready."""
        self._advance(now)
        if not self._ready:
            return None
        index = self._ready.popleft()
        self._attempts[index] += 1
        self._deliveries += 1
        attempt = self._attempts[index]
        self.redelivered += attempt > 1
        delivery = Delivery(self._deliveries, index, self._messages[index], attempt)
        self._leases[delivery.number] = _Lease(delivery, worker, now + self._visibility_seconds)
        return delivery

    def ack(self, number: int, now: float) -> bool:
        """Settle the message of a delivery. False: that delivery had ended, and the message is (or was) another's."""
        return self._settle(number, now)

    def reject(self, number: int, now: float, reason: str) -> bool:
        """Give up the message of a delivery for good."""
        lease = self._leases.get(number)
        if not self._settle(number, now) or lease is None:
            return False
        self.rejected[lease.delivery.index] = reason
        return True

    def nack(self, number: int, now: float, delay_seconds: float) -> bool:
        """Give a message back, to be delivered again after a while. False: that delivery had ended."""
        self._advance(now)
        lease = self._leases.pop(number, None)
        if lease is None:
            return False
        heapq.heappush(self._delayed, (now + delay_seconds, lease.delivery.index))
        return True

    def worker_gone(self, worker: str, now: float) -> int:
        """Make what a dead worker had ready again, at once. Return how many messages that was."""
        numbers = [number for number, lease in self._leases.items() if lease.worker == worker]
        for number in numbers:
            self.nack(number, now, 0.0)
        return len(numbers)

    def next_change_at(self) -> float | None:
        """The time at which a message may become ready by itself; None: only somebody's act can change anything."""
        times = [lease.expires_at for lease in self._leases.values()]
        if self._delayed:
            times.append(self._delayed[0][0])
        return min(times, default=None)

    def open_messages(self, order: tuple[str, str]) -> int:
        """How many unsettled messages ask for this payment and action?"""
        return self._open_orders[order]

    def has_work_besides(self, lock_key: str | None) -> bool:
        """Is there an unsettled message under another key than this one?"""
        return len(self._messages) - self.settled > self._unsettled_by_key[lock_key or ""]

    def _settle(self, number: int, now: float) -> bool:
        self._advance(now)
        lease = self._leases.pop(number, None)
        if lease is None:
            return False
        self.settled += 1
        self._unsettled_by_key[lease.delivery.message.lock_key] -= 1
        self._open_orders[lease.delivery.message.order] -= 1
        return True

    def _advance(self, now: float) -> None:
        """Make ready what is due. A message that has been out before goes to the front: it has waited longest."""
        for number, lease in list(self._leases.items()):
            if lease.expires_at <= now:
                del self._leases[number]
                self._ready.appendleft(lease.delivery.index)
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._delayed)[1])
