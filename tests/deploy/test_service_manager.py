"""What a node tells systemd, heard on a real socket: that it serves, that it is alive, that it stops."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from holdfast_coordinator.local_cluster import free_ports
from holdfast_coordinator.machine import Limits
from holdfast_coordinator.node import Node
from holdfast_coordinator.raft.scripted import ScriptedLog
from holdfast_coordinator.service_manager import PINGS_PER_WATCHDOG, ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator

HEARD_WITHIN_SECONDS = 30.0
"""A word comes at once or after a part of the watchdog's time; a node process needs seconds to start on a busy machine."""


class Manager:
    """The other end: a datagram socket such as systemd's."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self._socket.setblocking(False)

    async def hear(self) -> dict[str, str]:
        """The next datagram, by its words."""
        async with asyncio.timeout(HEARD_WITHIN_SECONDS):
            data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return dict(line.split("=", 1) for line in data.decode().splitlines())

    async def hear_until(self, word: str) -> dict[str, str]:
        while word not in (heard := await self.hear()):
            pass
        return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    with contextlib.closing(manager):
        yield manager


def test_the_variables_are_taken_and_no_child_gets_them() -> None:
    """time 0: systemd starts the node; time 1: the node starts a process that takes a snapshot. Only the node speaks for itself."""
    environ = {
        "NOTIFY_SOCKET": "/run/n",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "7",
        "HOME": "/",
    }
    assert ServiceManager.of(environ, 7).ping_seconds == 30 / PINGS_PER_WATCHDOG
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "30000000"},
        {"NOTIFY_SOCKET": "/run/n"},
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"},
    ],
)
def test_without_a_watchdog_for_this_process_none_is_fed(environ: dict[str, str]) -> None:
    """Such as one that is meant for a parent, or a variable that somebody left in a shell."""
    assert ServiceManager.of(environ, 7).ping_seconds is None


async def test_the_watchdog_hears_from_a_node_only_while_it_is_alive(manager: Manager) -> None:
    """The status, which changes here with every look, goes on being told; the watchdog's word does not, until all is well again."""
    alive, looks = True, iter(range(1_000_000))
    told = ServiceManager(manager.address, watchdog_seconds=0.03)
    told.ready(lambda: alive, lambda: f"look {next(looks)}")
    assert await manager.hear() == {"READY": "1", "STATUS": "look 0"}
    assert (await manager.hear())["WATCHDOG"] == "1"
    alive = False
    heard = [await manager.hear() for _ in range(4)]
    assert [list(words) for words in heard[1:]] == [["STATUS"]] * 3  # the first was on its way
    alive = True
    assert await manager.hear_until("WATCHDOG")
    told.stopping()
    assert (await manager.hear_until("STOPPING"))["STOPPING"] == "1"
    assert told._timer is None, "nothing is told after the end"


async def test_an_abstract_address_is_understood() -> None:
    """systemd may use one; `@` stands for the byte 0."""
    with contextlib.closing(Manager(f"@holdfast-test-{os.getpid()}")) as manager:
        ServiceManager(manager.address).stopping()
        assert "STOPPING" in await manager.hear()


async def test_a_manager_that_is_not_there_or_does_not_listen_costs_nothing(tmp_path: Path) -> None:
    """Nothing raises and nothing waits: with no socket at all, and with one whose queue is full."""
    ServiceManager(str(tmp_path / "none")).stopping()
    with contextlib.closing(Manager(str(tmp_path / "deaf"))) as deaf:
        told = ServiceManager(deaf.address)
        for _ in range(10_000):
            told.stopping()


async def test_the_status_is_one_short_line(manager: Manager) -> None:
    """Whatever is in it: a second line would be another word to the manager."""
    ServiceManager(manager.address).ready(lambda: True, lambda: "x\nWATCHDOG=1 " * 100)
    heard = await manager.hear()
    assert set(heard) == {"READY", "STATUS"}
    assert len(heard["STATUS"]) == 200


async def test_a_node_whose_housekeeping_has_died_is_not_alive() -> None:
    """time 0: the timer runs; time 1: an error ends it; the loop turns on, but who waits would wait for ever."""
    log = ScriptedLog()
    node = Node(
        "n1", lambda node: log.attach("n1", node), clock_ns=lambda: 0, limits=Limits(), cluster="c",
        members={"n1": ("h", "r")}, session_ref_key=b"",
    )  # fmt: skip
    assert not node.keeps_house
    await node.start()
    assert node.keeps_house
    assert node._housekeeping is not None
    died_at = asyncio.get_running_loop().time() - 60
    node._housekeeping.cancel()
    node._housekeeping = asyncio.get_running_loop().call_at(died_at, lambda: None)
    assert not node.keeps_house
    await node.stop()


@pytest.mark.cluster
async def test_a_real_node_tells_that_it_serves_lives_and_stops(
    tmp_path: Path, manager: Manager
) -> None:
    """One process, as systemd would start it: READY=1 when HTTP is there, the watchdog's words, STOPPING=1 at its end; its log."""
    http, raft = free_ports(2)
    (tmp_path / "cluster.yml").write_text(
        "cluster: c\ndata_dir: data\nnodes:\n"
        f"  - {{name: n1, http: '127.0.0.1:{http}', raft: '127.0.0.1:{raft}'}}\n"
    )
    environ = {**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "600000"}
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast", "serve", "--bootstrap", "--node", "n1",
        "--config", str(tmp_path / "cluster.yml"),
        env=environ, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert (await manager.hear())["READY"] == "1"
        _, writer = await asyncio.open_connection("127.0.0.1", http)
        writer.close()
        while "serving" not in (await manager.hear_until("STATUS"))["STATUS"]:
            pass
        assert (await manager.hear_until("WATCHDOG"))["WATCHDOG"] == "1"
        node.send_signal(signal.SIGTERM)
        assert (await manager.hear_until("STOPPING"))["STOPPING"] == "1"
        _, log = await node.communicate()
        assert node.returncode == 0
        lines = [json.loads(line) for line in log.splitlines() if line.startswith(b"{")]
        events = [line["event"] for line in lines]
        for before, after in itertools.pairwise(("serving", "ready", "stopping", "stopped")):
            assert events.index(before) < events.index(after)
        assert {line["node"] for line in lines} == {"n1"}
        assert lines[events.index("stopping")]["reason"] == "SIGTERM"
        assert lines[events.index("leader_elected")]["leader"] == "n1"
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
