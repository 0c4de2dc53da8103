"""The engine on real sockets and files, in one event loop: starting, stopping, failing."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from raft_schedules import kernel
from recording_host import RecordingHost

from holdfast_coordinator.local_cluster import free_ports
from holdfast_coordinator.raft import Engine, EngineConfig, EngineFailure, library
from holdfast_coordinator.raft.engine import boot_clock
from holdfast_coordinator.raft.inmem import VirtualClock


class NoisyHost(RecordingHost):
    """Says when something was applied or said, so that tests need not poll."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def apply(self, index: int, term: int, payload: bytes) -> bool:
        waits = super().apply(index, term, payload)
        self.news.set()
        return waits

    def on_message(self, peer: str, payload: bytes) -> None:
        super().on_message(peer, payload)
        self.news.set()

    def on_leader(self, leader: str | None, term: int) -> None:
        super().on_leader(leader, term)
        self.news.set()

    def on_peer_connected(self, peer: str) -> None:
        super().on_peer_connected(peer)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()


class Nodes:
    """Engines of one cluster in this loop."""

    def __init__(self, path: Path, count: int) -> None:
        names = [f"n{number}" for number in range(1, count + 1)]
        self.members = {
            name: ("127.0.0.1", port) for name, port in zip(names, free_ports(count), strict=True)
        }
        self.path = path
        self.hosts: dict[str, NoisyHost] = {}
        self.engines: dict[str, Engine] = {}

    def config(self, name: str, **changes: object) -> EngineConfig:
        settings: dict[str, object] = {
            "node": name,
            "cluster": "c",
            "secret": b"secret",
            "members": self.members,
            "data_dir": self.path / name,
            "heartbeat_ms": 40,
            "election_ms": (200, 400),
            "bootstrap": True,
        }
        return EngineConfig(**(settings | changes))  # type: ignore[arg-type]

    async def start(self, name: str, host: NoisyHost | None = None) -> Engine:
        self.hosts[name] = host if host is not None else NoisyHost()
        self.engines[name] = Engine(self.config(name), self.hosts[name], rng=random.Random(name))  # noqa: S311 - a seeded run
        await self.engines[name].start()
        return self.engines[name]

    async def stop(self, name: str) -> None:
        await self.engines.pop(name).stop()

    async def leader(self) -> str:
        """Wait until one leads and may say so."""
        async with asyncio.timeout(10):
            while True:
                for name, engine in self.engines.items():
                    if engine.has_own_term_commit:
                        return name
                waits = [asyncio.ensure_future(h.news.wait()) for h in self.hosts.values()]
                for host in self.hosts.values():
                    host.news.clear()
                await asyncio.wait(waits, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()

    async def stop_all(self) -> None:
        for name in list(self.engines):
            await self.stop(name)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Nodes]:
    """Three engines, started."""
    nodes = Nodes(tmp_path, 3)
    for name in nodes.members:
        await nodes.start(name)
    yield nodes
    await nodes.stop_all()


async def test_three_engines_agree_and_report(three: Nodes) -> None:
    """Elect, propose, apply everywhere; what the engine says of itself is consistent."""
    leader = await three.leader()
    engine = three.engines[leader]
    three.hosts[leader].queue.extend(b"%d" % number for number in range(20))
    engine.wake()
    for host in three.hosts.values():
        await host.until(lambda host=host: len(host.applied) == 20)  # type: ignore[misc]
        assert host.payloads == [b"%d" % number for number in range(20)]
    assert engine.is_leader
    assert engine.leader == leader
    assert engine.applied_index == engine.commit_index == engine.last_index
    assert max(engine.match_index.values()) == engine.last_index
    assert engine.connected_peers == frozenset(three.members) - {leader}
    assert engine.stats.fsync_count > 0
    assert engine.stats.frames_rejected == {}
    storage = engine.storage
    segments = list((three.path / leader).glob("*.segment"))
    assert storage.journal_segments == len(segments)
    assert storage.journal_bytes == sum(path.stat().st_size for path in segments)
    assert storage.log_entries == engine.last_index
    assert (storage.snapshot_index, storage.snapshot_bytes) == (0, 0)
    assert storage.snapshots == {"taken": 0, "failed": 0, "superseded": 0}
    follower = next(e for name, e in three.engines.items() if name != leader)
    assert follower.match_index == {}
    assert not follower.has_own_term_commit


async def test_application_messages_arrive_in_order_and_only_when_connected(three: Nodes) -> None:
    """`send` says whether there was a connection with room."""
    one, two = three.engines["n1"], three.hosts["n2"]
    await three.hosts["n1"].until(lambda: "n2" in three.hosts["n1"].connected)
    assert all(one.send("n2", b"%d" % number) for number in range(100))
    await two.until(lambda: len(two.messages) == 100)
    assert two.messages == [("n1", b"%d" % number) for number in range(100)]
    assert not one.send("n9", b"x")
    with pytest.raises(ValueError, match="over the limit"):
        one.send("n2", bytes(one.config.max_entry_bytes + 1))
    await three.stop("n2")
    async with asyncio.timeout(5):
        while "n2" in one.connected_peers:  # noqa: ASYNC110 - one round of the loop at a time
            await asyncio.sleep(0)
    assert not one.send("n2", b"x")


async def test_messages_to_a_peer_that_does_not_read_are_refused(three: Nodes) -> None:
    """The buffer is bounded, and the sender is told."""
    one = three.engines["n1"]
    await three.hosts["n1"].until(lambda: "n2" in three.hosts["n1"].connected)
    sent = 0
    while one.send("n2", bytes(500_000)):
        sent += 1
        assert sent < 100
    assert sent > 3


async def test_a_restarted_node_has_a_new_boot_and_everything_it_had(three: Nodes) -> None:
    """It replays its journal, and follows the present leader."""
    leader = await three.leader()
    three.hosts[leader].queue.append(b"x")
    three.engines[leader].wake()
    await three.hosts[leader].until(lambda: three.hosts[leader].payloads == [b"x"])
    assert three.engines[leader].boot == 1
    await three.stop(leader)
    other = await three.leader()
    three.hosts[other].queue.append(b"y")
    three.engines[other].wake()
    engine = await three.start(leader)
    assert engine.boot == 2
    host = three.hosts[leader]
    await host.until(lambda: host.payloads == [b"x", b"y"])


async def test_a_cluster_of_one_starts_serves_and_restarts(tmp_path: Path) -> None:
    """No peers are needed."""
    nodes = Nodes(tmp_path, 1)
    for number in range(2):
        engine = await nodes.start("n1")
        await nodes.leader()
        nodes.hosts["n1"].queue.append(b"%d" % number)
        engine.wake()
        host = nodes.hosts["n1"]
        await host.until(lambda host=host: len(host.applied) == number + 1)  # type: ignore[misc]  # noqa: B023
        await nodes.stop("n1")
    assert host.payloads == [b"0", b"1"]


async def test_d12_a_host_that_raises_stops_the_engine(tmp_path: Path) -> None:
    """`failed` says why, the entry is not applied again, and this node leads no more."""

    class Fails(NoisyHost):
        def apply(self, index: int, term: int, payload: bytes) -> bool:
            super().apply(index, term, payload)
            raise ValueError("half of the work")

    nodes = Nodes(tmp_path, 1)
    host = Fails()
    engine = await nodes.start("n1", host)
    await nodes.leader()
    host.queue.append(b"x")
    engine.wake()
    async with asyncio.timeout(5):
        with pytest.raises(EngineFailure, match="half of the work"):
            await engine.failed
    assert not engine.is_leader
    assert engine.leader is None
    assert host.payloads == [b"x"]
    await nodes.stop("n1")
    again = NoisyHost()
    await nodes.start("n1", again)
    await again.until(lambda: again.payloads == [b"x"])
    await nodes.stop("n1")


async def test_an_error_of_the_disk_stops_the_engine(three: Nodes) -> None:
    """What could not be synced is never acknowledged, and the others go on."""
    nodes = three
    leader = await nodes.leader()
    engine = nodes.engines[leader]

    def fails() -> None:
        raise OSError(28, "No space left on device")

    assert engine._journal is not None
    engine._journal._write = fails  # type: ignore[method-assign]
    nodes.hosts[leader].queue.append(b"x")
    engine.wake()
    async with asyncio.timeout(5):
        with pytest.raises(EngineFailure, match="No space left"):
            await engine.failed
    assert nodes.hosts[leader].payloads == []
    engine._journal._failure = "as the journal notes it"
    await nodes.stop(leader)
    del nodes.hosts[leader]
    assert await nodes.leader() != leader


async def test_a_port_in_use_is_a_sentence_and_frees_the_directory(tmp_path: Path) -> None:
    """Nothing is damaged: the next start, on a free port, works."""
    nodes = Nodes(tmp_path, 1)
    with socket.socket() as taken:
        taken.bind(nodes.members["n1"])
        taken.listen()
        with pytest.raises(EngineFailure, match=r"cannot listen on 127\.0\.0\.1:\d+ \(.*in use"):
            await nodes.start("n1")
    await nodes.start("n1")
    await nodes.leader()
    await nodes.stop_all()


async def test_a_directory_in_use_or_of_another_node_is_refused(tmp_path: Path) -> None:
    """With a sentence, before anything is listened on."""
    nodes = Nodes(tmp_path, 2)
    await nodes.start("n1")
    second = Engine(nodes.config("n2", data_dir=tmp_path / "n1"), RecordingHost())
    with pytest.raises(EngineFailure, match="in use"):
        await second.start()
    await nodes.stop("n1")
    third = Engine(nodes.config("n2", data_dir=tmp_path / "n1"), RecordingHost())
    with pytest.raises(EngineFailure, match="belongs to node n1"):
        await third.start()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"node": "n7"}, "not among the members"),
        ({"heartbeat_ms": 50, "election_ms": (100, 200)}, "below a third"),
        ({"election_ms": (200, 100)}, "must rise"),
        ({"cluster": "x" * 256}, "over 255 bytes"),
    ],
)
async def test_an_impossible_configuration_is_refused(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    """Before anything is opened."""
    with pytest.raises(EngineFailure, match=sentence):
        await Engine(Nodes(tmp_path, 1).config("n1", **changes), RecordingHost()).start()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - a test may block


async def test_d25_after_a_stall_sockets_are_read_before_an_election(three: Nodes) -> None:
    """A follower's loop stands still for far longer than an election time, while heartbeats wait
    in its socket: it does not stand for election when it goes on."""
    leader = await three.leader()
    engine = next(engine for name, engine in three.engines.items() if name != leader)
    host = three.hosts[engine.node]
    await host.until(lambda: engine.leader == leader)
    assert engine._kernel is not None
    elections, stalls = engine.stats.kernel.elections, engine.stats.stalls
    engine._clock = engine._kernel._clock = lambda: boot_clock() + 30
    engine.wake()
    async with asyncio.timeout(5):
        while engine.stats.stalls == stalls:  # noqa: ASYNC110 - one round of the loop at a time
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert engine.stats.kernel.elections == elections


class TestSeams:
    """The engine starts only on the library that it was written against."""

    def test_the_installed_library_is_right(self) -> None:
        """Otherwise the rest of the suite would mean nothing."""
        library.check_seams()

    def test_another_version_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The sentence says which one to install."""
        monkeypatch.setattr(library, "VERSION", "0.3.18")
        with pytest.raises(EngineFailure, match=r"install pysyncobj==0\.3\.17"):
            library.check_seams()

    @pytest.mark.parametrize("name", library.METHOD_SEAMS)
    def test_a_missing_method_is_named(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each that is replaced or called."""
        monkeypatch.delattr(library.library.SyncObj, name)
        with pytest.raises(EngineFailure, match=name):
            library.check_seams()

    @pytest.mark.parametrize("name", library.MODULE_SEAMS)
    def test_a_missing_name_is_named(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each that is patched."""
        monkeypatch.delattr(library.library, name)
        with pytest.raises(EngineFailure, match=name):
            library.check_seams()

    def test_a_missing_attribute_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Checked on the object that is made, before it is used."""
        monkeypatch.setattr(
            library, "ATTRIBUTE_SEAMS", (*library.ATTRIBUTE_SEAMS, "_SyncObj__renamed")
        )
        with pytest.raises(EngineFailure, match="_SyncObj__renamed"):
            kernel("n1", ("n2",), clock=VirtualClock())
