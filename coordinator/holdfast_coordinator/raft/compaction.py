"""Taking snapshots, the half that stays in the node: when, and what to do with the result.

The rules:
* The work is done by a process of its own (compactor.py), so the loop of the node never waits for it. What
  is left here is to start it, to rename one file, and to cut the journal.
* One at a time; a failure is counted, logged, and tried again later. The node lives on: what it loses is
  only that its journal grows.
* While the process reads, the journal is not cut; what is in it up to the job's entry is committed and on
  disk. A snapshot that a leader installs meanwhile wins, and the process's result is thrown away.
* A tail of entries stays in front of the snapshot, so that a peer that lags a little gets entries.

This module does not know what an entry means: the host says which command replays it (`CompactionConfig`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.raft import shield
from holdfast_coordinator.raft.compactor import JOB_VERSION, Job
from holdfast_coordinator.raft.errors import SnapshotError
from holdfast_coordinator.raft.snapshots import SnapshotInfo, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_coordinator.raft.datadir import DataDirectory
    from holdfast_coordinator.raft.kernel import Kernel
    from holdfast_coordinator.raft.snapshots import SnapshotStore

log = logging.getLogger(__name__)

SECONDS_MAX = 600.0
"""A process that takes longer is stuck, or the machine is so busy that the journal may as well grow."""
RETRY_SECONDS = 30.0
"""After a failure: the reason (a full disk, little memory) will not have gone in a moment."""
ANSWER_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class CompactionConfig:
    """How a node takes snapshots.

    command: starts the process; it speaks the protocol of `compactor`. parameters: given to it as they are.
    after_entries, after_bytes: so much applied since the last snapshot is a reason for the next. A start
    replays about twice that at worst, some seconds. keep_entries, keep_bytes: of the tail in front of a
    snapshot; it ends at whichever comes first.
    """

    command: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    after_entries: int = 100_000
    after_bytes: int = 64 << 20
    keep_entries: int = 10_000
    keep_bytes: int = 16 << 20


@dataclass(slots=True)
class CompactionStats:
    """Counters since the start."""

    taken: int = 0
    failed: int = 0
    superseded: int = 0
    """Thrown away, because a leader's snapshot had come meanwhile."""
    observer: Callable[[float], None] | None = None
    """Told the seconds of each that was taken, from the decision to the cut journal."""
    last_seconds: float = 0.0
    """How long the last one took, from the decision to the cut journal."""
    last_bytes: int = 0

    def outcomes(self) -> dict[str, int]:
        """How many attempts ended how."""
        return {"taken": self.taken, "failed": self.failed, "superseded": self.superseded}


def is_due(config: CompactionConfig, *, entries: int, size: int) -> bool:
    """Whether so many entries and bytes behind the last snapshot are a reason for the next."""
    return entries >= config.after_entries or size >= config.after_bytes


def tail_start(log_: shield.Log, index: int, config: CompactionConfig) -> int:
    """The first entry that stays in a log of which a snapshot holds everything up to `index`. Never above
    `index`: the log begins with an entry that the snapshot holds."""
    first = log_[0][1]
    end, size = index, 0
    while index > first and end - index < config.keep_entries:
        size += len(log_[index - first][0])
        if size > config.keep_bytes:
            break
        index -= 1
    return index


class Compactor:
    """Of one running engine; everything but the waiting thread belongs to its event loop."""

    def __init__(
        self,
        config: CompactionConfig,
        *,
        directory: DataDirectory,
        store: SnapshotStore,
        kernel: Kernel,
        journal: Any,
        clock: Callable[[], float],
        fail: Callable[[Exception], None],
    ) -> None:
        self.stats = CompactionStats()
        self._config = config
        self._directory = directory
        self._store = store
        self._kernel = kernel
        self._journal = journal
        self._clock = clock
        self._fail = fail
        self._not_before = float("-inf")
        self._task: asyncio.Task[SnapshotInfo | None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()

    def consider(self) -> None:
        """Begin if it is due. Called about once a second."""
        if self._task is not None or self._clock() < self._not_before:
            return
        entries = self._through() - self._base()
        if is_due(self._config, entries=entries, size=self._kernel.bytes_since_snapshot):
            self._begin()

    async def take_now(self) -> SnapshotInfo | None:
        """Take one of everything applied so far. None: it failed (and is logged), or there is nothing new."""
        if self._task is None and self._through() > self._base():
            self._begin()
        return None if self._task is None else await asyncio.shield(self._task)

    async def stop(self) -> None:
        """End the process. What it has written so far is removed at the next start."""
        self._stopped.set()
        if self._process is not None:
            self._process.kill()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    # Inside.

    def _base(self) -> int:
        return 0 if self._store.newest is None else self._store.newest.index

    def _through(self) -> int:
        """The last entry that a process may read: committed, and on disk."""
        durable: int = self._journal.durable_index
        return min(self._kernel.applied_index, durable)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="raft compaction")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[SnapshotInfo | None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else SnapshotError(repr(error)))

    async def _run(self) -> SnapshotInfo | None:
        begun, bytes_before = self._clock(), self._kernel.bytes_since_snapshot
        job = self._job()
        try:
            async with asyncio.timeout(SECONDS_MAX):
                # A thread that only waits: starting a process from it does not fork this one's memory.
                info = await asyncio.to_thread(self._work, job)
        except (SnapshotError, TimeoutError) as error:
            if self._process is not None:
                self._process.kill()
            self._failed(job, error)
            return None
        if self._stopped.is_set():
            return None
        if info.index <= self._base():
            self._store.remove(job.output)
            self.stats.superseded += 1
            return None
        try:
            # An error of the disk, here and below, is one of what everything rests on: it ends the node.
            self._store.adopt(job.output, info)
        except Unreadable as error:
            self._failed(job, error)
            return None
        self._kernel.cut_log(tail_start(self._journal, info.index, self._config))
        self._store.drop_older()
        self._kernel.bytes_since_snapshot -= min(bytes_before, self._kernel.bytes_since_snapshot)
        self.stats.taken += 1
        self.stats.last_bytes = info.length
        self.stats.last_seconds = self._clock() - begun
        if self.stats.observer is not None:
            self.stats.observer(self.stats.last_seconds)
        told = {
            "index": info.index,
            "bytes": info.length,
            "seconds": round(self.stats.last_seconds, 3),
        }
        log.info("snapshot_taken", extra=told)
        return info

    def _failed(self, job: Job, error: Exception) -> None:
        if self._stopped.is_set():
            return
        self._store.remove(job.output)
        if self._base() != job.base:
            self.stats.superseded += 1
            return  # a leader's snapshot took the place of what it was reading
        self.stats.failed += 1
        self._not_before = self._clock() + RETRY_SECONDS
        log.error(
            "taking a snapshot failed, the journal grows meanwhile: %s", str(error) or "too slow"
        )

    def _job(self) -> Job:
        index = self._through()
        return Job(
            data_dir=str(self._directory.path),
            directory_id=self._directory.id,
            cluster=self._directory.cluster,
            base=self._base(),
            index=index,
            term=shield.term_at(self._journal, index),
            output=self._store.new_temporary_name(index),
            parameters=self._config.parameters,
            version=JOB_VERSION,
        )

    def _work(self, job: Job) -> SnapshotInfo:
        """In a thread of its own: start the process, tell it the job, wait. Raises SnapshotError."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the command is the host's own
                self._config.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise SnapshotError(f"{self._config.command[0]} cannot be started: {error}") from error
        self._process = process
        if self._stopped.is_set():
            process.kill()
        try:
            # Leaving the block closes its input, which ends it, and waits for it.
            with process:
                assert process.stdin is not None  # noqa: S101
                assert process.stdout is not None  # noqa: S101
                process.stdin.write(job.to_json().encode() + b"\n")
                process.stdin.flush()
                answer = process.stdout.read(ANSWER_BYTES_MAX)
        except OSError as error:
            raise SnapshotError(f"the compactor ended early: {error}") from error
        return _info(answer, process.returncode)


def _info(answer: bytes, code: int) -> SnapshotInfo:
    """What the process said in its last line; before it may stand warnings."""
    try:
        said = json.loads(answer.splitlines()[-1])
        if "error" in said:
            raise SnapshotError(said["error"])
        digest = bytes.fromhex(said["digest"])
        return SnapshotInfo(said["index"], said["term"], said["length"], digest)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        why = answer.decode("utf-8", "replace").strip()[-500:] or "nothing"
        raise SnapshotError(f"the compactor ended with code {code} and said: {why}") from error
