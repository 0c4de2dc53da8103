"""Taking a snapshot: the process that replays the journal, and the node that starts it and uses the result."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from snapshot_lives import Life, ListHost, MemoryDisk, Nodes, replayer

from holdfast_coordinator import compaction as machine_compaction
from holdfast_coordinator.machine import Limits, Machine, encode_entry
from holdfast_coordinator.machine.operations import Acquire, Entry, Origin, Release
from holdfast_coordinator.raft.compaction import CompactionConfig, Compactor, is_due, tail_start
from holdfast_coordinator.raft.compactor import EXIT_ABANDONED, Job, compact
from holdfast_coordinator.raft.datadir import DataDirectory
from holdfast_coordinator.raft.errors import SnapshotError
from holdfast_coordinator.raft.inmem import VirtualClock
from holdfast_coordinator.raft.journal import Journal
from holdfast_coordinator.raft.journal_reader import Missing, read_committed
from holdfast_coordinator.raft.kernel import Kernel, KernelConfig
from holdfast_coordinator.raft.memory_disk import Step
from holdfast_coordinator.raft.messages import admission_command
from holdfast_coordinator.raft.snapshot_transfer import Receiver
from holdfast_coordinator.raft.snapshots import SnapshotInfo, SnapshotStore, describe

OWN = b"\x10"


# What is replayed.


def test_the_process_gets_the_state_that_the_node_has() -> None:
    """From nothing, and then from the snapshot before: at the same entry the bytes are equal."""
    life = Life(MemoryDisk())
    for start in (0, 10, 20):
        life.propose(*(b"%d" % number for number in range(start, start + 10)))
        info = life.take_snapshot()
        assert life.store.load(info.index)[1] == life.host.snapshot()
        assert life.journal[0][1] == info.index - 2


def test_the_machines_process_gets_the_state_hash_of_the_machine(tmp_path: Path) -> None:
    """Grants, refusals, waits and expiries, some of them from a snapshot; with the node's own limits."""
    limits = Limits(ttl_ms_min=1, waiters_per_key_max=3)
    machine = Machine(limits)
    directory = DataDirectory.open(tmp_path / "n1", cluster="c", node="n1")
    journal = Journal(directory)
    store = SnapshotStore(directory.files, cluster="c", life=1)
    journal.add(b"\x01", 1, 0)
    sequence = 0
    for round_ in range(3):
        for number in range(60):
            sequence += 1
            session = f"{sequence:032x}"
            operation: Acquire | Release = Acquire((f"k{number % 7}",), session, 1 + number, 50)
            if number % 5 == 4:
                operation = Release(f"{sequence - 4:032x}", sequence - 4)
            entry = Entry(1, 9, ((Origin("n1", 1, sequence), operation),))
            machine.apply(entry)
            journal.add(OWN + encode_entry(entry), len(journal) + 1, 1)
        journal.sync()
        job = Job(
            data_dir=str(directory.path),
            directory_id=directory.id,
            cluster="c",
            base=0 if store.newest is None else store.newest.index,
            index=len(journal),
            term=1,
            output=store.new_temporary_name(len(journal)),
            parameters=machine_compaction.parameters(limits),
        )
        if round_ == 2:  # once as the node does it: in a process, over pipes
            ended = subprocess.Popen(  # noqa: S603 - our own interpreter
                machine_compaction.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            with ended:
                assert ended.stdin
                assert ended.stdout
                ended.stdin.write(job.to_json().encode() + b"\n")
                ended.stdin.flush()
                said = json.loads(ended.stdout.read())
            assert ended.returncode == 0
            digest = bytes.fromhex(said["digest"])
            made = SnapshotInfo(said["index"], said["term"], said["length"], digest)
        else:
            made = compact(directory.files, job, machine_compaction.Replayer)
        store.adopt(job.output, made)
        payload = store.load(made.index)[1]
        assert Machine.restore(payload, limits).state_hash() == machine.state_hash()
        assert payload == machine.snapshot()
    assert machine.counts().grants_total > 10
    assert machine.counts().expired_total > 0
    journal._destroy()
    directory.close()


def test_the_journal_may_be_written_while_it_is_read() -> None:
    """At every step of an append, a cut and a roll, a reader finds exactly what it was told is committed."""
    life = Life(MemoryDisk(), peers=("n2", "n3"), segment_bytes=400)
    journal = life.journal
    for index in range(2, 8):
        journal.add(OWN + b"%d" % index * 20, index, 1)
    journal.sync()
    committed = [item for item in journal if 3 < item[1] <= 6]
    found = 0

    def read(_step: Step) -> None:
        nonlocal found
        entries = read_committed(
            life.directory.files,
            bytes.fromhex(life.directory.id),
            after=3,
            through=6,
            through_term=1,
        )
        assert entries == committed
        found += 1

    life.disk.before = read
    for index in range(8, 14):
        journal.add(OWN + b"%d" % index * 20, index, 1)
        journal.sync()
    journal.deleteEntriesFrom(6)  # from entry 7 on: behind what is committed
    journal.add(OWN + b"another", 7, 2)
    journal.sync()
    for index in range(8, 14):
        journal.add(OWN + b"another" * 9, index, 2)
        journal.sync()
    assert found > 20


def test_entries_that_were_cut_and_written_again_are_read_as_they_are_now() -> None:
    life = Life(MemoryDisk(), peers=("n2", "n3"), segment_bytes=300)
    journal = life.journal
    for index in range(2, 12):
        journal.add(OWN + b"old", index, 1)
        journal.sync()
    journal.deleteEntriesFrom(4)
    for index in range(5, 12):
        journal.add(OWN + b"new", index, 2)
        journal.sync()
    entries = read_committed(
        life.directory.files, bytes.fromhex(life.directory.id), after=2, through=9, through_term=2
    )
    assert [command[1:] for command, _, _ in entries] == [b"old"] * 2 + [b"new"] * 5


@pytest.mark.parametrize(
    ("after", "through", "term"), [(0, 99, 1), (0, 5, 2), (1, 5, 2)], ids=["end", "term", "term"]
)
def test_a_journal_that_does_not_hold_what_was_asked_for_gives_nothing(
    after: int, through: int, term: int
) -> None:
    life = Life(MemoryDisk())
    life.propose(*(b"%d" % number for number in range(9)))
    with pytest.raises(Missing):
        read_committed(
            life.directory.files,
            bytes.fromhex(life.directory.id),
            after=after,
            through=through,
            through_term=term,
        )


def test_a_gap_behind_the_base_is_noticed() -> None:
    """The base is older than the journal reaches: segments before it are dropped."""
    life = Life(MemoryDisk())
    for number in range(9):
        life.propose(b"%d" % number * 200)
    life.take_snapshot()
    job = replace(life.job(), base=0)
    with pytest.raises(SnapshotError, match="no snapshot of entry"):
        compact(life.directory.files, job, replayer)


# When, and what stays.


def test_a_snapshot_is_due_after_so_many_entries_or_bytes() -> None:
    config = CompactionConfig(command=(), after_entries=100, after_bytes=1000)
    assert not is_due(config, entries=99, size=999)
    assert is_due(config, entries=100, size=0)
    assert is_due(config, entries=1, size=1000)


def test_a_tail_stays_in_front_of_the_snapshot() -> None:
    log = [(b"x" * 10, index, 1) for index in range(5, 30)]
    config = CompactionConfig(command=(), keep_entries=4, keep_bytes=1000)
    assert tail_start(log, 20, config) == 16
    assert tail_start(log, 20, replace(config, keep_bytes=25)) == 18
    assert tail_start(log, 20, replace(config, keep_bytes=1)) == 20
    assert tail_start(log, 20, replace(config, keep_entries=0)) == 20
    assert tail_start(log, 20, replace(config, keep_entries=100)) == 5


def test_a_peer_that_lags_less_than_the_tail_needs_no_snapshot() -> None:
    nodes = Nodes(seed=5)
    leader = nodes.elect()
    away = next(name for name in nodes.names if name != leader)
    nodes.settle(*nodes.names)
    nodes.cluster.isolate(away)
    for number in range(30):
        nodes.propose(leader, b"%d" % number)
        nodes.cluster.run_for(0.01)
    nodes.settle(*(name for name in nodes.names if name != away))
    nodes.lives[leader].take_snapshot(keep=40)
    nodes.cluster.heal_all()
    nodes.settle(*nodes.names)
    assert nodes.lives[away].host.restored == []
    assert nodes.lives[away].host.state == nodes.lives[leader].host.state


# The process and the node.

LIST_PROCESS = """
import sys
sys.path.insert(0, {tests!r})
from snapshot_lives import replayer
from holdfast_coordinator.raft import compactor
sys.exit(compactor.main(replayer))
"""


class RealLife(Life):
    """A node alone, on a real disk."""

    def __init__(self, path: Path) -> None:
        self.clock = VirtualClock()
        self.host = ListHost()
        self.directory = DataDirectory.open(path, cluster="c", node="n1")
        self.journal = Journal(self.directory)
        self.store = SnapshotStore(self.directory.files, cluster="c", life=self.directory.boot)
        self.kernel = Kernel(
            KernelConfig(node="n1", peers=()),
            self.journal,
            self.host,
            clock=self.clock,
            rng=random.Random(0),  # noqa: S311 - a schedule, not a secret
            snapshots=self.store,
        )
        self.failures: list[Exception] = []

    def compactor(self, command: tuple[str, ...], **config: Any) -> Compactor:
        return Compactor(
            CompactionConfig(command, keep_entries=3, **config),
            directory=self.directory,
            store=self.store,
            kernel=self.kernel,
            journal=self.journal,
            clock=self.clock,
            fail=self.failures.append,
        )

    def close(self) -> None:
        self.kernel.close()
        self.journal._destroy()
        self.directory.close()


@pytest.fixture
def real(tmp_path: Path) -> Any:
    lives: list[RealLife] = []

    def live() -> RealLife:
        lives.append(RealLife(tmp_path / "n1"))
        return lives[-1]

    yield live
    lives[-1].close()


@pytest.fixture
def list_process(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "process.py"
    script.write_text(LIST_PROCESS.format(tests=str(Path(__file__).parent)))
    return (sys.executable, str(script))


def words(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


async def test_the_node_starts_the_process_uses_the_result_and_cuts_its_journal(
    real: Any, list_process: tuple[str, ...]
) -> None:
    life = real()
    life.propose(*words(40))
    compactor = life.compactor(list_process, after_entries=30)
    told: list[float] = []
    compactor.stats.observer = told.append
    compactor.consider()
    taken = asyncio.ensure_future(compactor.take_now())
    await asyncio.sleep(0)
    life.propose(*words(5, 40))  # while the process is at work
    info = await taken
    assert life.failures == []
    assert info == life.store.newest
    assert life.journal[0][1] == info.index - 3
    assert compactor.stats.taken == 1
    assert compactor.stats.outcomes() == {"taken": 1, "failed": 0, "superseded": 0}
    assert told == [compactor.stats.last_seconds]
    assert compactor.stats.last_bytes == info.length
    assert len(life.names) == 1
    assert await compactor.take_now() is not None, (
        "the entries behind it are a reason if somebody asks"
    )
    assert await compactor.take_now() is None, "there is nothing new"
    before = life.host.state
    life.close()
    again = real()
    again.propose()
    assert again.host.state == before


async def test_a_process_that_fails_costs_only_a_line_in_the_log(
    real: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """... and is not started again at once."""
    life = real()
    life.propose(*words(40))
    for code in ("raise SystemExit('no luck')", "print('nonsense')", 'print(\'{"error": "bad"}\')'):
        compactor = life.compactor((sys.executable, "-c", code), after_entries=1)
        assert await compactor.take_now() is None
        compactor.consider()
        assert compactor._task is None
        assert compactor.stats.failed == 1
    assert "no luck" in caplog.text
    missing = life.compactor(("/no/such/program",))
    assert await missing.take_now() is None
    assert (life.failures, life.names, life.journal[0][1]) == ([], [], 1)


async def test_a_node_that_stops_ends_the_process(real: Any) -> None:
    life = real()
    life.propose(*words(10))
    compactor = life.compactor(
        (sys.executable, "-c", "import time; time.sleep(60)"), after_entries=1
    )
    compactor.consider()
    while compactor._process is None:  # noqa: ASYNC110 - another thread starts it
        await asyncio.sleep(0)
    await compactor.stop()
    assert compactor._process.returncode == -9
    assert life.failures == []


async def test_a_leaders_snapshot_that_was_installed_meanwhile_wins(
    real: Any, list_process: tuple[str, ...]
) -> None:
    life = real()
    life.propose(*words(10))
    compactor = life.compactor(list_process, after_entries=1)
    taken = asyncio.ensure_future(compactor.take_now())
    await asyncio.sleep(0)
    payload = json.dumps([[90, 1, "later"]]).encode()
    receiver = Receiver(life.store)
    receiver.offered(describe(90, 1, payload))
    receiver.take(90, 0, payload)
    life.kernel._begin_installation(receiver.complete(), "n2", 1)
    life.propose()
    assert await taken is None
    assert (life.store.newest.index, life.failures) == (90, [])
    assert compactor.stats.outcomes() == {"taken": 0, "failed": 0, "superseded": 1}
    assert life.names == [f"snapshot-{90:020d}"]


def test_d23_the_process_ends_with_its_parent(real: Any, list_process: tuple[str, ...]) -> None:
    """kill -9 closes the pipe; whatever the process was doing, it ends, and has renamed nothing."""
    life = real()
    life.propose(*words(10))
    script = Path(list_process[1])
    script.write_text(
        script.read_text().replace("replayer)", "lambda *_: __import__('time').sleep(60))")
    )
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        list_process, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin
    job = Job(**{**asdict(life.job()), "data_dir": str(life.directory.path)})
    process.stdin.write(job.to_json().encode() + b"\n")
    process.stdin.flush()
    process.stdin.close()
    assert process.wait(timeout=20) == EXIT_ABANDONED
    assert life.names == []


def test_entries_that_are_not_the_hosts_are_passed_over_and_unknown_ones_are_not() -> None:
    """A new leader's NO_OP and an admission change nothing in the host's state."""
    life = Life(MemoryDisk())
    life.propose(b"one")
    life.kernel._raft.append_command(admission_command("n9", "5a" * 16))
    life.propose(b"two")
    info = life.take_snapshot()
    assert life.store.load(info.index)[1] == life.host.snapshot()
    other = Life(MemoryDisk(), peers=("n2", "n3"))
    other.journal.add(b"\x77unknown", 2, 0)
    other.journal.sync()
    job = replace(life.job(), base=0, index=2, term=0)
    with pytest.raises(SnapshotError, match="entry 2 is of an unknown type"):
        compact(other.directory.files, job, replayer)
