"""The process that takes a node's snapshots: the machine, put behind `raft.compactor`.

Rule: it applies entries exactly as the node does, with the same limits, and answers nobody. `python -m
holdfast_coordinator.compaction` reads its job from standard input; people have no use for it.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from holdfast_coordinator.machine import Limits, Machine, Quota, decode_entry
from holdfast_coordinator.machine.codec import EMPTY_ENTRY
from holdfast_coordinator.raft import compactor, snapshots


def command() -> tuple[str, ...]:
    """What starts it, from the interpreter that is running."""
    return (sys.executable, "-m", "holdfast_coordinator.compaction")


def parameters(limits: Limits) -> dict[str, Any]:
    """What it must know about the node: limits decide outcomes."""
    return {"limits": dataclasses.asdict(limits)}


def limits_of(given: dict[str, Any]) -> Limits:
    """What `parameters` made of them."""
    quotas = tuple(Quota(**quota) for quota in given["quotas"])
    return Limits(**{**given, "quotas": quotas})


def inspect(path: Path) -> dict[str, object]:
    """What `holdfast snapshot inspect` shows of a file, after a check of every byte. Raises ValueError, OSError."""
    header, payload = snapshots.inspect(path)
    counts = Machine.restore(payload).counts()
    return {
        "cluster": header.cluster,
        "last_index": header.info.index,
        "last_term": header.info.term,
        "payload_bytes": header.info.length,
        "sha256": header.info.digest.hex(),
        "made": "by a leader, and installed here"
        if header.installed
        else "from this node's journal",
        **dataclasses.asdict(counts),
    }


class Replayer:
    """Fulfils `compactor.Replayer`. Raises ValueError for a snapshot that it cannot read."""

    def __init__(self, given: dict[str, Any], payload: bytes | None) -> None:
        limits = limits_of(given["limits"])
        self.machine = Machine(limits) if payload is None else Machine.restore(payload, limits)

    def apply(self, index: int, term: int, payload: bytes) -> None:
        del term  # the entry carries its own
        entry = decode_entry(payload)
        if entry is EMPTY_ENTRY:
            # The node is of a newer version than this process: its program was replaced while it ran. Passing over the entry
            # would make a snapshot of another state.
            raise ValueError(f"log entry {index} cannot be read by this version")
        self.machine.apply(entry)

    def snapshot(self) -> bytes:
        return self.machine.snapshot()


if __name__ == "__main__":
    sys.exit(compactor.main(Replayer))
