"""Nodes in network namespaces of their own, joined by a bridge in another one; the kernel's own TCP, cut below it.

    hub (this process, the clients)   10.199.0.1   bridge br0
    n1, n2, ...                       10.199.0.11, .12, ...   eth0, a veth into the bridge

Rules:
* Nothing is done to the network of the machine: all addresses are in namespaces that this run made, and they end with it. What a
  killed run has left behind is removed by the next one.
* Every neighbour is a fixed entry. A link a -> b is cut by giving b a hardware address in a's table that nobody has: what a
  sends to b is then lost without a word, in that direction only, open connections included. It takes iproute2 and nothing else.
* Delay is `tc netem`; where the kernel has none, a link that is narrow (`tc tbf`). Loss is netem, or iptables.

Needs root, `ip` and `tc`.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from holdfast_jepsen.live.network import CLIENTS, Link, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

PREFIX: Final = "holdfast-jepsen-"
"""Of the names of namespaces; the process id of the run follows."""
NETWORK: Final = "10.199.0."
HTTP_PORT, RAFT_PORT, PROBE_PORT = 7601, 7701, 7801
CLONE_NEWNET: Final = 0x40000000
NOBODY: Final = "02:00:00:00:ff:ff"
LOST_SECONDS: Final = 0.3
"""What has not arrived after so long does not."""
NARROW: Final = ("tbf", "rate", "24kbit", "burst", "1600", "limit", "30000")
"""A heartbeat or two fill such a link; what waits longest is late by seconds."""
NARROW_LINK: Final = "sent over a link of 24 kbit/s"
"""What `NARROW` is, for people."""
RUN_NETNS: Final = Path("/run/netns")


class Namespaces:
    """See the module."""

    kind = "namespaces"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._places = {CLIENTS: 1, **{name: 11 + n for n, name in enumerate(names)}}
        self._home = -1
        self._probes: dict[str, socket.socket] = {}
        self._has_netem = False

    # Setting up and taking down.

    async def __aenter__(self) -> Self:
        _remove_leftovers()
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            self._build()
        except BaseException:
            await self._take_down()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._take_down()

    def _build(self) -> None:
        hub = self._namespace(CLIENTS)
        for name in self._places:
            _ip("netns", "add", self._namespace(name))
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        for name in self._names:
            _ip("-n", hub, "link", "add", f"to-{name}", "type", "veth",
                "peer", "name", "eth0", "netns", self._namespace(name))  # fmt: skip
            _ip("-n", hub, "link", "set", f"to-{name}", "master", "br0", "up")
        for name in self._places:
            inside, device = self._namespace(name), self._device(name)
            _ip("-n", inside, "link", "set", device, "address", self._hardware(name))
            _ip("-n", inside, "address", "add", f"{self._host(name)}/24", "dev", device)
            for up in ("lo", device):
                _ip("-n", inside, "link", "set", up, "up")
        for name in self._places:
            self._neighbours([(name, other) for other in self._places if other != name], None)
            self._enter(name)
            self._probes[name] = probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            probe.setblocking(False)
            probe.bind((self._host(name), PROBE_PORT))
        self._enter(CLIENTS)
        self._has_netem = _tc(self._namespace(CLIENTS), "add", "lo", "netem", "delay", "1ms")
        _tc(self._namespace(CLIENTS), "del", "lo")

    async def _take_down(self) -> None:
        for probe in self._probes.values():
            probe.close()
        _set_namespace(self._home)
        os.close(self._home)
        for name in self._places:
            _remove(self._namespace(name))

    def _enter(self, name: str) -> None:
        """This thread, and the processes that it starts, are there from now on."""
        inside = os.open(RUN_NETNS / self._namespace(name), os.O_RDONLY)
        try:
            _set_namespace(inside)
        finally:
            os.close(inside)

    # What the run asks.

    def addresses(self, reader: str) -> Mapping[str, tuple[str, str]]:
        """The same for every reader."""
        del reader
        return {
            name: (f"{self._host(name)}:{HTTP_PORT}", f"{self._host(name)}:{RAFT_PORT}")
            for name in self._names
        }

    def http(self, node: str) -> str:
        return f"{self._host(node)}:{HTTP_PORT}"

    def inside(self, node: str) -> Sequence[str]:
        return "ip", "netns", "exec", self._namespace(node)

    def check(self, kinds: Iterable[str]) -> None:
        if "loss" in kinds and not self._has_netem and shutil.which("iptables") is None:
            raise Unavailable("loss needs tc netem in the kernel, or iptables; here is neither")

    async def cut(self, links: Sequence[Link]) -> None:
        self._neighbours(links, NOBODY)

    async def mend(self, links: Sequence[Link]) -> None:
        self._neighbours(links, None)

    async def slow(self, node: str, milliseconds: int) -> str:
        inside, told = self._namespace(node), f"sent {milliseconds} ms late"
        if milliseconds == 0:
            _tc(inside, "del", "eth0")
        elif self._has_netem:
            spread = f"{max(milliseconds // 2, 1)}ms"
            _tc(inside, "replace", "eth0", "netem", "delay", f"{milliseconds}ms", spread)
        else:
            _tc(inside, "replace", "eth0", *NARROW)
            told = NARROW_LINK
        return told

    async def lose(self, node: str, percent: int) -> str:
        inside, told = self._namespace(node), f"{percent} % of what is sent is lost"
        if self._has_netem:
            changed = ("replace", "eth0", "netem", "loss", f"{percent}%")
            _tc(inside, *(changed if percent else ("del", "eth0")))
            return told
        rule = ["-m", "statistic", "--mode", "random", "--probability", f"{percent / 100:.2f}"]
        change = ["-A", "OUTPUT", *rule, "-j", "DROP"] if percent else ["-F", "OUTPUT"]
        _run("ip", "netns", "exec", inside, "iptables", "-w", *change)
        return told

    async def passes(self, link: Link) -> bool:
        sender, receiver = link
        _drain(self._probes[receiver])
        self._probes[sender].sendto(sender.encode(), (self._host(receiver), PROBE_PORT))
        end = asyncio.get_running_loop().time() + LOST_SECONDS
        while asyncio.get_running_loop().time() < end:
            if sender.encode() in _drain(self._probes[receiver]):
                return True
            await asyncio.sleep(0.01)
        return False

    async def disturbed(self, node: str) -> int:
        inside = self._namespace(node)
        told = json.loads(_run("tc", "-n", inside, "-s", "-j", "qdisc", "show", "dev", "eth0"))
        queues = [each for each in told if each["kind"] in ("netem", "tbf")]
        count = sum(each[_proof(each)] for each in queues)
        if not queues and shutil.which("iptables") is not None:
            listed = _run("ip", "netns", "exec", inside, "iptables", "-w", "-nvxL", "OUTPUT")
            count = sum(int(line.split()[0]) for line in listed.splitlines() if " DROP " in line)
        return int(count)

    # Leaves.

    def _neighbours(self, links: Sequence[Link], hardware: str | None) -> None:
        """`hardware` None: the true one."""
        for sender, receiver in links:
            _ip("-n", self._namespace(sender), "neigh", "replace", self._host(receiver),
                "lladdr", hardware or self._hardware(receiver),
                "dev", self._device(sender), "nud", "permanent")  # fmt: skip

    def _namespace(self, name: str) -> str:
        return f"{PREFIX}{os.getpid()}-{name}"

    def _host(self, name: str) -> str:
        return f"{NETWORK}{self._places[name]}"

    def _hardware(self, name: str) -> str:
        return f"02:00:00:00:00:{self._places[name]:02x}"

    @staticmethod
    def _device(name: str) -> str:
        return "br0" if name == CLIENTS else "eth0"


def why_not() -> str | None:
    """Why this machine cannot have such namespaces; None: it can."""
    if os.geteuid() != 0:
        return "not root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"no `{tool}` (iproute2)"
    trial = f"{PREFIX}{os.getpid()}-trial"
    try:
        _ip("netns", "add", trial)
        _ip("-n", trial, "link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b")
        _ip("-n", trial, "link", "add", "br0", "type", "bridge")
    except Unavailable as error:
        return str(error)
    finally:
        _remove(trial)
    return None


def _proof(queue: Mapping[str, Any]) -> str:
    """Which counter of a queue, as `tc -s -j` tells of it, counts what was delayed or lost there."""
    if queue["kind"] == "tbf":
        return "overlimits"
    return "drops" if "loss-random" in queue["options"] else "packets"


def _remove_leftovers() -> None:
    """Of runs whose process is gone."""
    for path in RUN_NETNS.glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            _remove(path.name)


def _remove(namespace: str) -> None:
    if (RUN_NETNS / namespace).exists():
        _ip("netns", "delete", namespace)


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _drain(probe: socket.socket) -> list[bytes]:
    got = []
    while True:
        try:
            got.append(probe.recv(64))
        except BlockingIOError:
            return got


def _ip(*words: str) -> None:
    _run("ip", *words)


def _tc(namespace: str, change: str, device: str, *queue: str) -> bool:
    """Change the queue of a device; False: this kernel does not know that kind, or there is none to delete."""
    words = ("tc", "-n", namespace, "qdisc", change, "dev", device, "root", *queue)
    return subprocess.run(words, capture_output=True, check=False).returncode == 0  # noqa: S603


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise Unavailable(f"`{' '.join(words)}`: {done.stderr.strip()}")
    return done.stdout
