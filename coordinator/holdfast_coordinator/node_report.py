"""What a node tells of itself to whoever looks after the cluster: plain values, and no rules.

`holdfast status` shows it, `holdfast doctor` compares it between nodes. Nothing in it names a key, an owner or a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SyncTimes:
    """Of the last syncs of the journal (at most `vitals.SYNCS_KEPT`), in microseconds; all 0 if there was none yet."""

    count: int = 0
    median_us: int = 0
    p99_us: int = 0
    longest_us: int = 0


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """`use`: the setting that names the file. `not_after_ms`: Unix milliseconds; None: the file cannot be read, see `error`."""

    use: str
    file: str
    not_after_ms: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """What only the process knows. `settings`: those that ought to be the same on all nodes, as short text or as a digest.
    `disk_free_bytes` None: it cannot be told."""

    syncs: SyncTimes = SyncTimes()
    certificates: tuple[CertificateReport, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    disk_free_bytes: int | None = None
    stalls: int = 0
    """How often the loop was held up for longer than half of the shortest election time."""


@dataclass(frozen=True, slots=True)
class PeerReport:
    """Another node, as this one hears it. `version` None: it has not said, or is older than the words for it."""

    name: str
    connected: bool
    version: str | None = None
    format_level_max: int | None = None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """`clock_us`: CLOCK_BOOTTIME of this node's machine. Compare two of them with the time between, and with nothing else."""

    version: str
    format_level: int
    """Of the log, as far as it is applied here."""
    format_level_min: int
    format_level_max: int
    clock_us: int
    boot: int
    """How often this node's data directory has been opened."""
    peers: tuple[PeerReport, ...] = ()
    vitals: Vitals = Vitals()
