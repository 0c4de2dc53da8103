"""How often a tenant may ask: a token bucket for each quota that names a rate, on this node alone.

Rule: asked before the machine is, so that a flood costs the cluster nothing; a refusal took nothing from any bucket. Each node
counts for itself: a tenant that spreads its calls over three nodes gets three times the rate. What is counted exactly is in the
machine. The clock (seconds, monotonic) is a port. Keys and owners are compared and not kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from holdfast.wire import Code
from holdfast_coordinator.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast_coordinator.config import Rate
    from holdfast_coordinator.machine import Machine
    from holdfast_coordinator.machine.operations import Acquire

BURST_SECONDS: Final = 1.0
"""A bucket holds what comes in within a second, and at least one: workers start together, and a second is soon made up for."""


class Rates:
    """The buckets of one node; false if there are none."""

    def __init__(self, rates: Sequence[Rate], now: Callable[[], float]) -> None:
        started = now()
        self._now = now
        self._buckets = [_Bucket(rate, started) for rate in rates]

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def ask(self, keys: tuple[str, ...], owner: str | None) -> None:
        """Take one from every bucket that an acquire of these keys by this owner counts for. Raises `Problem` (429)."""
        now = self._now()
        concerned = [bucket for bucket in self._buckets if bucket.counts(keys, owner)]
        for bucket in concerned:
            missing_seconds = bucket.fill(now)
            if missing_seconds > 0:
                rate = bucket.rate
                raise Problem(
                    Code.LIMIT_REACHED,
                    f"this node takes {rate.acquires_per_second} acquires a second of this tenant; this one was not passed on",
                    limit=f"quota.acquires_per_second:{rate.name}",
                    retry_after_ms=math.ceil(missing_seconds * 1000),
                )
        for bucket in concerned:
            bucket.level -= 1


def ask_rates(rates: Rates, machine: Machine, operation: Acquire) -> None:
    """Ask them for an acquire that the machine has not seen: a repeat, and the continuation of a wait, were let in before."""
    if not rates:
        return
    request_id = operation.request_id
    if request_id is not None and machine.knows_request(operation.session, request_id):
        return
    owner = operation.owner
    if owner is None:
        owner = machine.session_owner(operation.session)
    rates.ask(operation.keys, owner)


class _Bucket:
    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._capacity = max(1.0, rate.acquires_per_second * BURST_SECONDS)
        self.level = self._capacity
        self._filled_at = now

    def counts(self, keys: tuple[str, ...], owner: str | None) -> bool:
        if self.rate.prefix is None:
            return self.rate.owner == owner
        prefix = self.rate.prefix
        return any(key.startswith(prefix) for key in keys)

    def fill(self, now: float) -> float:
        """Let in what has come since the last time; the seconds until there is one, 0 if there is."""
        per_second = self.rate.acquires_per_second
        self.level = min(self._capacity, self.level + (now - self._filled_at) * per_second)
        self._filled_at = now
        # A billionth less than one is one: the sum of many small steps.
        return 0.0 if self.level >= 1 - 1e-9 else (1 - self.level) / per_second
