"""What only a node's process knows of itself: how its disk syncs, until when its certificates are good, how it is configured.

Rule: read when somebody asks; of the past only a bounded window of sync times is kept. A setting that holds something secret is not
here, nor a digest of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import deque
from typing import TYPE_CHECKING, Final

from .certificate_dates import not_after_ms
from .machine.limits import digest
from .node_report import CertificateReport, SyncTimes, Vitals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .config import ClusterConfig

SYNCS_KEPT: Final = 1_000
"""Under load some seconds, idle some minutes: what the disk is like now, and enough for a hundredth."""


class VitalSigns:
    """Of one process. `stalls` says how often its loop was held up."""

    def __init__(
        self, config: ClusterConfig, node: str, *, stalls: Callable[[], int] = lambda: 0
    ) -> None:
        self._settings = settings_of(config)
        self._files = certificate_files(config, node)
        self._data_dir = config.node(node).data_dir
        self._stalls = stalls
        self._syncs: deque[float] = deque(maxlen=SYNCS_KEPT)

    def observing(self, also: Callable[[float], None]) -> Callable[[float], None]:
        """What the engine tells the seconds of each sync to: they are kept here, and passed on."""
        keep = self._syncs.append

        def observe(seconds: float) -> None:
            keep(seconds)
            also(seconds)

        return observe

    def read(self) -> Vitals:
        return Vitals(
            syncs=sync_times(self._syncs),
            certificates=tuple(_certificate(use, file) for use, file in self._files),
            settings=self._settings,
            disk_free_bytes=_free_bytes(self._data_dir),
            stalls=self._stalls(),
        )


def certificate_files(config: ClusterConfig, node: str) -> list[tuple[str, Path]]:
    """(setting, file) of every certificate that this node shows or trusts: whatever ends one day is in this list."""
    files: list[tuple[str, Path]] = []
    if config.raft_tls is not None:
        raft = config.raft_tls.of(node)
        files += [("raft_tls.certificate", raft.certificate), ("raft_tls.ca", raft.ca)]
    if config.http_tls is not None:
        http = config.http_tls.of(node)
        files.append(("http_tls.certificate", http.certificate))
        if http.ca is not None:
            files.append(("http_tls.ca", http.ca))
    return files


def settings_of(config: ClusterConfig) -> dict[str, str]:
    """Those that ought to be the same on all nodes. `limits` must be: nodes with others refuse each other."""
    timing = config.timing
    nodes = [f"{each.name} http {each.http} raft {each.raft}" for each in config.nodes]
    rates = repr(sorted(map(repr, map(dataclasses.astuple, config.rates))))
    http_limits = repr(dataclasses.astuple(config.http_limits))
    return {
        "limits": digest(config.machine_limits).hex(),
        "nodes": "; ".join(sorted(nodes)),
        "timing": f"heartbeat {timing.heartbeat_ms} ms, election {timing.election_ms_min} to {timing.election_ms_max} ms",
        "raft_tls": "off" if config.raft_tls is None else "on",
        "http_tls": "off" if config.http_tls is None else "on",
        "access": "off" if config.access is None else _short(repr(config.access)),
        "epoch": str(config.epoch),
        "http_limits": _short(http_limits),
        "rates": _short(rates),
        "format_level_max": str(config.format_level_max),
    }


def sync_times(seconds: Sequence[float] | deque[float]) -> SyncTimes:
    if not seconds:
        return SyncTimes()
    microseconds = sorted(round(each * 1e6) for each in seconds)
    count = len(microseconds)
    return SyncTimes(
        count, microseconds[count // 2], microseconds[count * 99 // 100], microseconds[-1]
    )


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _certificate(use: str, file: Path) -> CertificateReport:
    try:
        return CertificateReport(use, str(file), not_after_ms(file))
    except OSError as error:
        return CertificateReport(use, str(file), None, error.strerror or "it cannot be read")
    except ValueError as error:
        return CertificateReport(use, str(file), None, str(error))


def _free_bytes(path: Path) -> int | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
