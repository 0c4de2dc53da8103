"""What `holdfast journal verify` and `dump` show: a node's journal, read offline, its entries in words.

Rule: plain values out, nothing changed on the disk, no node needed. A session's id is a secret of its creator: only its beginning
is shown. Keys and owners are shown, because finding them is what the dump is for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from holdfast_coordinator.machine import decode_entry
from holdfast_coordinator.machine.codec import EMPTY_ENTRY
from holdfast_coordinator.raft.errors import EngineFailure
from holdfast_coordinator.raft.messages import (
    ENTRY_ADMIT,
    ENTRY_NO_OP,
    ENTRY_OWN,
    MessageError,
    parse_admission,
)
from holdfast_coordinator.raft.offline import inspect

SESSION_CHARS_SHOWN = 6


class Damaged(ValueError):
    """The journal cannot be read; the text is the sentence with which a node would refuse to start."""


def verify(path: Path) -> dict[str, Any]:
    """What the journal in data directory `path` holds. Raises `Damaged`."""
    try:
        found = inspect(path)
    except EngineFailure as failure:
        raise Damaged(str(failure)) from failure
    fields = dataclasses.asdict(dataclasses.replace(found, entries=()))
    del fields["entries"]
    unreadable = [entry[1] for entry in found.entries if _describe(entry)["type"] == "unknown"]
    return fields | {"entries": len(found.entries), "unreadable_entries": unreadable}


def dump(path: Path, first: int | None = None, last: int | None = None) -> Iterator[dict[str, Any]]:
    """The entries from index `first` to `last`, both included, in order. Raises `Damaged` before the first one."""
    try:
        entries = inspect(path).entries
    except EngineFailure as failure:
        raise Damaged(str(failure)) from failure
    for entry in entries:
        if (first is None or entry[1] >= first) and (last is None or entry[1] <= last):
            yield _describe(entry)


def _describe(entry: tuple[bytes, int, int]) -> dict[str, Any]:
    command, index, term = entry
    described: dict[str, Any] = {"index": index, "term": term, "bytes": len(command)}
    if command == ENTRY_NO_OP:
        return described | {"type": "leader began"}
    if command[:1] == ENTRY_ADMIT:
        try:
            node, directory = parse_admission(command)
        except MessageError:
            return described | {"type": "unknown"}
        return described | {"type": "node replaced", "node": node, "directory": directory}
    batch = decode_entry(command[1:]) if command[:1] == ENTRY_OWN else EMPTY_ENTRY
    if batch is EMPTY_ENTRY:
        return described | {"type": "unknown"}
    operations = [
        {
            "origin": f"{origin.node}/{origin.boot}/{origin.sequence}",
            "operation": type(operation).__name__,
            **_fields(operation),
        }
        for origin, operation in batch.operations
    ]
    return described | {
        "type": "batch",
        "elapsed_ms": batch.elapsed_ms,
        "operations": operations,
    }


def _fields(operation: Any) -> dict[str, Any]:
    fields = {
        name: value
        for name in operation.__struct_fields__
        if (value := msgspec.to_builtins(getattr(operation, name))) is not None
    }
    if "session" in fields:
        fields["session"] = f"{fields['session'][:SESSION_CHARS_SHOWN]}..."
    return fields
