"""What a node counts for Prometheus. Each node has a `Metrics` with a registry of its own, so that several live in one process.

Rule: a label's values are known in advance. Never a key, an owner, a session or a path as the caller wrote it: those
are the caller's to choose and would fill the memory of whoever scrapes. State that the node has anyway is read when
somebody asks, not kept twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from holdfast._version import __version__
from holdfast_coordinator.http.durations import Durations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from holdfast_coordinator.node_report import NodeReport, Vitals
    from holdfast_coordinator.node_types import ClusterStatus, NodePort

# A grant takes about a millisecond on one machine, a few across a region; a wait lasts up to 30 s.
_REQUEST_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32,
)  # fmt: skip
_DISK_BUCKETS: Final = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1,
)  # fmt: skip
_APPLY_BUCKETS: Final = (
    0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1,
)  # fmt: skip
# A state of a few thousand locks takes a part of a second, one of a million about a minute; a process is given up after ten.
_SNAPSHOT_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
"""Any other method is counted as `other`: a caller can invent as many as it likes."""


class Metrics:
    """The counters that somebody has to bump. Made before the node, so that the engine can be given `observe_fsync`.

    `now` measures durations, in seconds. Not the event loop's clock: uvloop's goes in steps of a millisecond.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self._requests = self._durations(
            "holdfast_http_request_duration_seconds",
            "From the head of a request to the end of its answer's making.",
            ("route", "method", "status"),
            _REQUEST_BUCKETS,
        )
        self._acquires = self._durations(
            "holdfast_acquire_wait_seconds",
            "How long an acquire took to be decided, by its outcome.",
            ("outcome",),
            _REQUEST_BUCKETS,
        )
        self._rejected = Counter(
            "holdfast_rejected_total",
            "Requests that were refused, by the code of the answer.",
            ("reason",),
            registry=self.registry,
        )
        self._limits_reached = Counter(
            "holdfast_limit_reached_total",
            "Requests that were refused for a limit, by its name: one of the configuration's, so there are few.",
            ("limit",),
            registry=self.registry,
        )
        self._watchers = Gauge(
            "holdfast_watchers", "Streams of events that are open.", registry=self.registry
        )
        self._streams = Gauge(
            "holdfast_streams", "Connections of clients that carry calls.", registry=self.registry
        )
        self._watches_ended = Counter(
            "holdfast_watches_ended_total",
            "Streams of events that this node ended, by why.",
            ("reason",),
            registry=self.registry,
        )
        self._connections = Gauge(
            "holdfast_http_connections",
            "Connections of callers, those that are still in their TLS handshake included.",
            registry=self.registry,
        )
        self._connections_ended = Counter(
            "holdfast_http_connections_ended_total",
            "Connections of callers that this node ended, by the limit that was reached or what else was wrong.",
            ("reason",),
            registry=self.registry,
        )
        fsync = self._durations(
            "holdfast_journal_fsync_duration_seconds",
            "How long the disk took to make a group of journal records durable.",
            (),
            _DISK_BUCKETS,
        )
        apply = self._durations(
            "holdfast_apply_duration_seconds",
            "How long the machine took to apply one log entry.",
            (),
            _APPLY_BUCKETS,
        )
        snapshot = self._durations(
            "holdfast_snapshot_duration_seconds",
            "How long a snapshot took, from the decision to the journal cut to it. Another process does the work.",
            (),
            _SNAPSHOT_BUCKETS,
        )
        # Each takes seconds. Attributes rather than methods: they are called for every entry.
        self.observe_fsync = fsync.of().observe
        self.observe_apply = apply.of().observe
        self.observe_snapshot = snapshot.of().observe

    def _durations(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Durations:
        durations = Durations(name, text, labels, buckets)
        self.registry.register(durations)
        return durations

    def watch(self, node: NodePort) -> None:
        """From now on a scrape also tells this node's state. Once for each node."""
        self.registry.register(_NodeCollector(node))

    def watch_connections(self, count: Callable[[], int]) -> None:
        """How many connections there are, as of the moment of asking."""
        self._connections.set_function(count)

    def count_connection_ended(self, reason: str) -> None:
        self._connections_ended.labels(reason).inc()

    def watch_watchers(self, count: Callable[[], int]) -> None:
        self._watchers.set_function(count)

    def watch_streams(self, count: Callable[[], int]) -> None:
        self._streams.set_function(count)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        known = method if method in METHODS else "other"
        self._requests.of(route, known, str(status)).observe(seconds)

    def observe_acquire(self, outcome: str, seconds: float) -> None:
        """`outcome`: `granted`, or the code of the refusal."""
        self._acquires.of(outcome).observe(seconds)

    def count_rejected(self, reason: str, limit: str | None = None) -> None:
        self._rejected.labels(reason).inc()
        if limit is not None:
            self._limits_reached.labels(limit).inc()

    def count_watch_ended(self, reason: str) -> None:
        self._watches_ended.labels(reason).inc()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition in the format that the scraper likes best, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


class _NodeCollector(Collector):
    """Reads the node at the moment of the scrape."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        status = self._node.status()
        storage = status.storage
        report = self._node.report()
        counts = self._node.machine.counts()
        trail = self._node.machine.trail
        build = GaugeMetricFamily("holdfast_build_info", "Always 1.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        gauges = (
            ("raft_leader", "1 on the leader, else 0.", int(status.leader == status.node)),
            (
                "raft_leader_known",
                "1 while this node knows a leader and is connected with it.",
                int(_has_leader(status, report)),
            ),
            ("raft_term", "The present Raft term.", status.term),
            (
                "raft_commit_lag_entries",
                "Entries that are committed and not yet applied here.",
                max(0, status.commit_index - status.applied_index),
            ),
            ("ready", "1 while this node takes callers.", int(self._node.is_ready)),
            ("locks_held", "Holds.", counts.holds),
            ("waiters", "Acquires that wait.", counts.waiters),
            ("sessions", "Sessions that are alive.", counts.sessions),
            ("token_last", "The token of the last grant.", counts.last_token),
            (
                "log_entries",
                "Entries of the log on disk, those in a snapshot included.",
                storage.log_entries,
            ),
            (
                "journal_bytes",
                "Bytes of the journal's files, reserved space included.",
                storage.journal_bytes,
            ),
            ("journal_segments", "Files of the journal.", storage.journal_segments),
            (
                "snapshot_index",
                "The last log entry in the newest snapshot; 0: none.",
                storage.snapshot_index,
            ),
            ("snapshot_bytes", "Bytes of the newest snapshot.", storage.snapshot_bytes),
            ("checkpoints", "Keys that carry a checkpoint.", counts.checkpoints),
            ("trail_revision", "Of the last record of the trail.", trail.last_revision),
            ("trail_first_revision", "Of the oldest record that is kept.", trail.first_revision),
            (
                "raft_peers_connected",
                "Other nodes that this one is connected with.",
                sum(peer.connected for peer in report.peers),
            ),
            ("raft_peers", "Other nodes of the configuration.", len(report.peers)),
            ("format_level", "The format level of the log, as applied here.", report.format_level),
            (
                "format_level_max",
                "The highest format level that this node knows, or is held at.",
                report.format_level_max,
            ),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"holdfast_{name}", text, value=value)
        yield from _vitals(report.vitals)
        closed_by = {"delay": counts.delayed, "in_doubt": counts.in_doubt, "done": counts.done}
        closed = GaugeMetricFamily(
            "holdfast_closed_keys",
            "Keys that nobody holds and that are not granted, by why.",
            labels=("by",),
        )
        for by, count in closed_by.items():
            closed.add_metric((by,), count)
        yield closed
        counters = (
            ("raft_leader_changes", "Leaders seen to come.", status.leader_changes),
            ("grants", "Grants, as the log tells it.", counts.grants_total),
            ("lease_expired", "Holds that ended by expiry.", counts.expired_total),
            ("releases", "Holds that ended by their holder's will.", counts.releases_total),
            ("sessions_expired", "Sessions that were not renewed.", counts.sessions_expired_total),
            ("wait_timeouts", "Waits that ended without a grant.", counts.wait_timeouts_total),
            (
                "loop_stalls",
                "How often the node's loop was held up for half an election time.",
                report.vitals.stalls,
            ),
            ("snapshots_sent", "Snapshots that brought a peer up to date.", storage.snapshots_sent),
            (
                "snapshots_installed",
                "Snapshots of a leader that were installed here.",
                storage.snapshots_installed,
            ),
            ("forced", "Holds that an operator ended.", counts.forced_total),
            ("deadlocks", "Requests that would have closed a circle.", counts.deadlocks_total),
        )
        for name, text, value in counters:
            yield CounterMetricFamily(f"holdfast_{name}", text, value=value)
        frames = CounterMetricFamily(
            "holdfast_raft_frames_rejected",
            "Frames of peers that were refused.",
            labels=("reason",),
        )
        for reason, count in sorted(status.rejected.items()):
            frames.add_metric((reason,), count)
        yield frames
        snapshots = CounterMetricFamily(
            "holdfast_snapshots", "Attempts to take a snapshot.", labels=("outcome",)
        )
        for outcome, count in storage.snapshots.items():
            snapshots.add_metric((outcome,), count)
        yield snapshots


def _has_leader(status: ClusterStatus, report: NodeReport) -> bool:
    """A node that hears nothing goes on to name the leader that it heard last, until there is another."""
    near = {status.node, *(peer.name for peer in report.peers if peer.connected)}
    return status.leader in near


def _vitals(vitals: Vitals) -> Iterator[Metric]:
    """What cannot be told is left out."""
    if vitals.disk_free_bytes is not None:
        text = "Bytes that are free where the node's data is."
        yield GaugeMetricFamily("holdfast_disk_free_bytes", text, value=vitals.disk_free_bytes)
    ends = GaugeMetricFamily(
        "holdfast_certificate_not_after_seconds",
        "When a certificate ends, in seconds since 1970, by the setting that names it.",
        labels=("use",),
    )
    for certificate in vitals.certificates:
        if certificate.not_after_ms is not None:
            ends.add_metric((certificate.use,), certificate.not_after_ms / 1000)
    yield ends
