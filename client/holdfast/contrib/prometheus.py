"""What a process that holds locks can tell Prometheus: how close its renewals are, what it lost, what a ledger refused.

    metrics = ClientMetrics()
    hf = holdfast.connect(endpoints, **metrics.hooks())
    fence = SqlFence(table, on_refused=metrics.fence_refused)

Rule: no label but the reason of a loss, of which there are a handful. Never a key or an owner: those are without number. The
coordinator's own metrics are at its `/metrics`; docs/metrics.md lists them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypedDict

from prometheus_client import REGISTRY, Counter, Histogram

from holdfast.fencing import REFUSED_TOTAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from holdfast.fencing import Stale
    from holdfast.grant import Grant

MARGIN_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 60)
"""A session of 10 s is renewed with more than 6 s left when all is well; what ends in the first buckets was close."""


class Hooks(TypedDict):
    """Keywords for `holdfast.connect` and `holdfast.connect_sync`."""

    on_renewed: Callable[[float], object]
    on_lost: Callable[[Grant], object]


class ClientMetrics:
    """One for each process, for any number of clients and guards."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._margin = Histogram(
            "holdfast_client_lease_margin_seconds",
            "What was left of a session's lease when its renewal was acknowledged.",
            buckets=MARGIN_BUCKETS,
            registry=registry,
        )
        self._lost = Counter(
            "holdfast_client_lost_total",
            "Locks that were lost while they were held, by why.",
            ("code",),
            registry=registry,
        )
        self._refused = Counter(
            REFUSED_TOTAL, "Writes that a fence refused as stale.", registry=registry
        )

    def hooks(self) -> Hooks:
        """`connect(..., **metrics.hooks())`. Whoever has an `on_lost` of their own calls `metrics.lost(grant)` there."""
        return Hooks(on_renewed=self.renewed, on_lost=self.lost)

    def renewed(self, seconds_left: float) -> None:
        self._margin.observe(seconds_left)

    def lost(self, grant: Grant) -> None:
        code = grant.lost_code
        self._lost.labels("unknown" if code is None else code.value).inc()

    def fence_refused(self, stale: Stale) -> None:
        """The `on_refused` of a guard or a ledger."""
        del stale  # which key it was is nobody's label
        self._refused.inc()
