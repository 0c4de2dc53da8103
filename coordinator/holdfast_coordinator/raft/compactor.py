"""Taking a snapshot, the half that runs in a process of its own: replay the journal onto the one before.

The rules:
* It reads committed entries only (journal_reader.py), and writes one temporary file. It never renames,
  never removes, holds no lock and no socket: whatever becomes of it, the node's files stay whole (D1, D23).
* It ends when its standard input does, that is, with the process that started it.
* It steps back: lowest priority, a bound on its memory, and the first to go should the machine run out.

    parent   starts it, writes one line of JSON (`Job`), keeps the pipe open
    child    reads, replays, writes, syncs, reads back, checks
    child    writes one line of JSON: {"index", "term", "length", "digest"}, or {"error"}

The module does not know what an entry means: whoever starts it brings a `Replayer`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from holdfast_coordinator.raft.disk import OsDirectory
from holdfast_coordinator.raft.errors import SnapshotError
from holdfast_coordinator.raft.journal_reader import Missing, read_committed
from holdfast_coordinator.raft.messages import ENTRY_ADMIT, ENTRY_NO_OP, ENTRY_OWN
from holdfast_coordinator.raft.snapshots import (
    SnapshotInfo,
    SnapshotStore,
    Unreadable,
    write_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.raft.disk import Directory

MEMORY_BYTES_MAX = 8 << 30
"""Address space of the process: several times what the largest state needs, so that only a fault meets it."""
NICENESS = 19
OOM_SCORE_MAX = "1000"
JOB_BYTES_MAX = 1 << 16
EXIT_OK, EXIT_FAILED, EXIT_ABANDONED = 0, 1, 3
JOB_VERSION = 2
"""The program on the disk may be replaced while its node runs. An older one must not take on the job of a newer node: the first
version passed over entries that it could not read, and would have made a snapshot of another state. It does not know this
field, and ends."""


class Replayer(Protocol):
    """The state, as the host keeps it."""

    def apply(self, index: int, term: int, payload: bytes) -> None: ...
    def snapshot(self) -> bytes:
        """Canonical: equal states give equal bytes."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to do. `parameters` are the host's own."""

    data_dir: str
    directory_id: str
    cluster: str
    base: int
    """The snapshot to begin with; 0: none, begin with the first entry."""
    index: int
    """The last entry to replay: committed, and on disk."""
    term: int
    """Its term."""
    output: str
    """Name of the temporary file."""
    parameters: dict[str, Any]
    version: int = 1
    """Of the node that gives the job."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """Raises ValueError, TypeError."""
        job = cls(**json.loads(line))
        if job.version > JOB_VERSION:
            raise ValueError("the node is of a newer version than the program on the disk")
        return job


def compact(
    files: Directory, job: Job, new_replayer: Callable[[dict[str, Any], bytes | None], Replayer]
) -> SnapshotInfo:
    """Do it. Raises SnapshotError with a sentence."""
    try:
        store = SnapshotStore(files, cluster=job.cluster, life=0)
        payload = store.load(job.base)[1] if job.base else None
        state = new_replayer(job.parameters, payload)
        entries = read_committed(
            files,
            bytes.fromhex(job.directory_id),
            # Without a snapshot, entry 1 is the first of all.
            after=job.base,
            through=job.index,
            through_term=job.term,
        )
        for command, index, term in entries:
            if command[:1] == ENTRY_OWN:
                state.apply(index, term, command[1:])
            elif command != ENTRY_NO_OP and command[:1] != ENTRY_ADMIT:
                raise Missing(f"log entry {index} is of an unknown type")
        return write_snapshot(
            files,
            job.output,
            cluster=job.cluster,
            index=job.index,
            term=job.term,
            payload=state.snapshot(),
        )
    except (Missing, Unreadable, OSError, ValueError) as error:
        raise SnapshotError(f"no snapshot of entry {job.index} could be taken: {error}") from error


def main(new_replayer: Callable[[dict[str, Any], bytes | None], Replayer]) -> int:
    """The process. Its exit code."""
    _step_back()
    job = Job.from_json(_first_line())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        info = compact(OsDirectory(Path(job.data_dir)), job, new_replayer)
    except (SnapshotError, MemoryError) as error:
        _say({"error": str(error) or "out of memory"})
        return EXIT_FAILED
    _say({**asdict(info), "digest": info.digest.hex()})
    return EXIT_OK


def _step_back() -> None:
    # The process is short, and its garbage has no cycles worth looking for.
    gc.disable()
    os.nice(NICENESS)
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_MAX)


def _first_line() -> str:
    """Unbuffered: nothing may be read ahead of what `_end_with_parent` waits for."""
    line = b""
    while not line.endswith(b"\n") and len(line) < JOB_BYTES_MAX:
        piece = os.read(0, JOB_BYTES_MAX)
        if not piece:
            break
        line += piece
    return line.decode()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(EXIT_ABANDONED)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
