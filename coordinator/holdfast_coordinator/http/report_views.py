"""The answer of `GET /v1/cluster/node`: what one node tells of itself. Pure, as `views`, and described in openapi.yaml."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from holdfast_coordinator.machine.machine import Counts
    from holdfast_coordinator.node_report import NodeReport, Vitals
    from holdfast_coordinator.node_types import ClusterStatus


class FormatLevelsView(msgspec.Struct, frozen=True):
    """`current`: of the log, as far as it is applied here; the others: what this version knows."""

    current: int
    min: int
    max: int


class PeerView(msgspec.Struct, frozen=True):
    name: str
    connected: bool
    version: str | None
    format_level_max: int | None


class SyncsView(msgspec.Struct, frozen=True):
    count: int
    median_us: int
    p99_us: int
    longest_us: int


class CertificateView(msgspec.Struct, frozen=True):
    use: str
    file: str
    not_after_ms: int | None
    error: str | None


class StorageView(msgspec.Struct, frozen=True):
    journal_bytes: int
    log_entries: int
    snapshot_index: int
    free_bytes: int | None


class LocksView(msgspec.Struct, frozen=True):
    """`*_total`: since the cluster began."""

    sessions: int
    holds: int
    keys: int
    waiters: int
    grants_total: int
    releases_total: int
    expired_total: int
    forced_total: int


class NodeReportView(msgspec.Struct, frozen=True):
    cluster: str
    node: str
    version: str
    format_levels: FormatLevelsView
    leader: str | None
    term: int
    ready: bool
    lag_ms: int | None
    commit_index: int
    applied_index: int
    leader_changes: int
    clock_us: int
    boot: int
    stalls: int
    peers: list[PeerView]
    syncs: SyncsView
    storage: StorageView
    certificates: list[CertificateView]
    settings: dict[str, str]
    locks: LocksView


def node_report_view(
    status: ClusterStatus, report: NodeReport, counts: Counts, *, ready: bool, lag_ms: int | None
) -> NodeReportView:
    vitals = report.vitals
    levels = (report.format_level, report.format_level_min, report.format_level_max)
    return NodeReportView(
        cluster=status.cluster,
        node=status.node,
        version=report.version,
        format_levels=FormatLevelsView(*levels),
        leader=status.leader,
        term=status.term,
        ready=ready,
        lag_ms=lag_ms,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        leader_changes=status.leader_changes,
        clock_us=report.clock_us,
        boot=report.boot,
        stalls=vitals.stalls,
        peers=[PeerView(**asdict(peer)) for peer in report.peers],
        syncs=SyncsView(**asdict(vitals.syncs)),
        storage=_storage(status, vitals),
        certificates=[CertificateView(**asdict(each)) for each in vitals.certificates],
        settings=dict(vitals.settings),
        locks=LocksView(
            *(getattr(counts, name) for name in LocksView.__struct_fields__),
        ),
    )


def _storage(status: ClusterStatus, vitals: Vitals) -> StorageView:
    storage = status.storage
    return StorageView(
        storage.journal_bytes, storage.log_entries, storage.snapshot_index, vitals.disk_free_bytes
    )
