"""`replace-node NODE --config FILE`: a dead machine's node comes back on another machine, step by step, while the cluster serves.

    1  look: every other node answers, is ready, and goes by one epoch; they have a leader and are a majority; NODE is gone
    2  each of the others reads the new address from its cluster.yml, one after another, and is looked at again
    3  NODE answers at its new address, and goes by the same epoch
    4  its empty directory is admitted through the log (as when only a disk was lost)
    5  NODE is ready: it has everything, and votes from the next term on

Rule: whatever is not as it must be ends the command with a sentence, before anything or between two steps. Asking again goes on
from where the cluster is; no step is remembered here. Why every step is safe by itself: docs/replacing-a-node.md. What the nodes
say and what time it is come in through `World`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp

from holdfast import wire
from holdfast.cli import calling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ANSWER_SECONDS: Final = 5.0
"""A node that does not answer in so long is taken for down. More than the nodes themselves wait for a majority."""

LOOK_AGAIN_SECONDS: Final = 0.5


class Unsafe(Exception):
    """The next step could harm; it was not done. The text is a sentence for the operator: mend that, and ask again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is, as cluster.yml says: a URL, and host and port."""

    http: str
    raft: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of `node`. `without`: other nodes that are known to be down, and are not asked."""

    cluster: str
    epoch: int
    node: str
    places: Mapping[str, Place]
    without: frozenset[str] = frozenset()

    @property
    def others(self) -> list[str]:
        return [each for each in self.places if each != self.node and each not in self.without]


@dataclass(frozen=True, slots=True)
class Told:
    """What one node says: the fields of `GET /v1/cluster`, and whether it is ready."""

    cluster: str
    epoch: int
    leader: str | None
    states: Mapping[str, str]
    places: Mapping[str, Place]
    is_ready: bool


class World(Protocol):
    """The cluster, and the clock."""

    async def ask(self, node: str) -> Told | None:
        """None: it does not answer."""

    async def reload(self, node: str) -> str | None:
        """Have it read its cluster.yml. The sentence with which it refuses; None: it has."""

    async def admit(self, by: str, node: str) -> str | None:
        """Have `by` admit `node`. The sentence with which it refuses; None: it is admitted."""

    async def answers(self, address: str) -> bool:
        """Whether anybody accepts connections there."""

    async def wait(self) -> bool:
        """Let a moment pass. False: all the time there was has passed."""


async def replace(plan: Plan, world: World, say: Callable[[str], None]) -> None:
    """Do what is left to be done. Raises `Unsafe`."""
    told = await survey(plan, world)
    if all(_is_back(plan, each) for each in told.values()) and await _has_come_back(plan, world):
        say(f"{plan.node} is back already; there is nothing to do")
        return
    await _check_gone(plan, world, told)
    for name in plan.others:
        if told[name].epoch == plan.epoch:
            continue
        if (refusal := await world.reload(name)) is not None:
            raise Unsafe(f"{name} does not take over the new address: {refusal}")
        say(f"{name} looks for {plan.node} at {plan.places[plan.node].raft}")
        await survey(plan, world)
    await _until_it_answers(plan, world, say)
    if await _admit(plan, world):
        say(f"{plan.node} is admitted")
    await _until_ready(plan, world)
    say(f"{plan.node} has caught up, and counts again")


async def survey(plan: Plan, world: World) -> dict[str, Told]:
    """What the other nodes say, if it is safe to go on. Raises `Unsafe`."""
    others = plan.others
    majority = len(plan.places) // 2 + 1
    if len(others) < majority:
        raise Unsafe(
            f"{len(others)} of {len(plan.places)} nodes are left without {plan.node}, which is no majority: nothing that was "
            "acknowledged can be vouched for by them. Bring another node back with its directory, or restore a backup"
        )
    told = {}
    for name in others:
        each = await world.ask(name)
        if each is None:
            raise Unsafe(
                f"{name} does not answer at {plan.places[name].http}; bring it back first, one node at a time. (If it is lost "
                f"too, and the others are a majority: --without {name})"
            )
        told[name] = each
    for name, each in told.items():
        if reason := _unfit(plan, each):
            raise Unsafe(f"{name} {reason}")
    if len(leaders := {each.leader for each in told.values()}) > 1:
        raise Unsafe(
            f"the nodes name different leaders ({', '.join(map(str, leaders))}); try again"
        )
    return told


def _unfit(plan: Plan, told: Told) -> str | None:
    """Why the cluster cannot do without `plan.node` as this node sees it."""
    if told.cluster != plan.cluster:
        return f"is of cluster {told.cluster}, and the file of {plan.cluster}"
    if told.epoch not in (plan.epoch - 1, plan.epoch):
        return (
            f"goes by epoch {told.epoch}, and the file has {plan.epoch}: a change raises it by one. Give every node the newest "
            "cluster.yml, and restart those that have missed a change"
        )
    if told.places.keys() != plan.places.keys():
        return "knows other nodes than the file names; who votes is fixed for the life of a cluster"
    moved = [
        name
        for name, place in plan.places.items()
        if name != plan.node and told.places[name] != place
    ]
    if moved:
        return f"has another address for {moved[0]} than the file; change one node at a time"
    if told.leader is None or not told.is_ready:
        return "is not ready: it knows no leader, or has not caught up yet"
    return None


async def _check_gone(plan: Plan, world: World, told: Mapping[str, Told]) -> None:
    """The node must not be there: its successor would push it out, and what only it knows would be lost with it."""
    new = plan.places[plan.node]
    old: set[str] = set()
    for name, each in told.items():
        if each.epoch == plan.epoch:
            if each.places[plan.node] != new:
                raise Unsafe(
                    f"{name} has epoch {plan.epoch} too, but another address for {plan.node}; raise epoch in the file"
                )
            continue
        if each.places[plan.node] == new:
            raise Unsafe(f"the file has a new epoch, but no new address for {plan.node}")
        if each.states[plan.node] != "unreachable":
            raise Unsafe(
                f"{name} is connected with {plan.node}; stop it first, or leave it where it is"
            )
        old |= {each.places[plan.node].raft, _address(each.places[plan.node].http)}
    for address in sorted(old - {new.raft, _address(new.http)}):
        if await world.answers(address):
            raise Unsafe(
                f"the old {plan.node} still answers at {address}; stop it first, and see that it does not start again"
            )


def _is_back(plan: Plan, told: Told) -> bool:
    gone = told.states[plan.node] == "unreachable"
    return (
        told.epoch == plan.epoch and told.places[plan.node] == plan.places[plan.node] and not gone
    )


async def _has_come_back(plan: Plan, world: World) -> bool:
    itself = await world.ask(plan.node)
    return itself is not None and itself.is_ready and itself.epoch == plan.epoch


async def _until_it_answers(plan: Plan, world: World, say: Callable[[str], None]) -> None:
    place = plan.places[plan.node]
    is_told = False
    while (itself := await world.ask(plan.node)) is None:
        if not is_told:
            say(
                f"waiting for {plan.node} at {place.http}: start it there (holdfast serve --node {plan.node})"
            )
            is_told = True
        if not await world.wait():
            raise Unsafe(
                f"{plan.node} does not answer at {place.http}; start it there with an empty data directory and the new "
                "cluster.yml, then ask again"
            )
    if (itself.cluster, itself.epoch) != (plan.cluster, plan.epoch):
        raise Unsafe(
            f"{plan.node} was started with another cluster.yml (cluster {itself.cluster}, epoch {itself.epoch}); give it "
            "the new one"
        )


async def _admit(plan: Plan, world: World) -> bool:
    """False: it has come with the directory that the cluster knows. A node that has not heard of the newcomer yet refuses, and so
    does one that has let it in already."""
    while True:
        await survey(plan, world)
        refusals = []
        for name in plan.others:
            if (refusal := await world.admit(name, plan.node)) is None:
                return True
            refusals.append(refusal)
        if await _has_come_back(plan, world):
            return False
        if not await world.wait():
            raise Unsafe(f"{plan.node} is not admitted: {refusals[0]}")


async def _until_ready(plan: Plan, world: World) -> None:
    while not await _has_come_back(plan, world):
        if not await world.wait():
            raise Unsafe(f"{plan.node} is admitted, and has not caught up yet; ask again later")


def _address(url: str) -> str:
    """Host and port of a URL."""
    return url.partition("://")[2].rstrip("/")


class HttpWorld:
    """Fulfils `World` for a running cluster. `places`: where to ask each node."""

    def __init__(
        self, http: aiohttp.ClientSession, places: Mapping[str, Place], wait_seconds: float
    ) -> None:
        self._http = http
        self._places = places
        self._until = time.monotonic() + wait_seconds  # noqa: TID251 - how long a person waits

    async def ask(self, node: str) -> Told | None:
        status, view = await self._call("GET", node, f"{wire.API_PREFIX}/cluster")
        if status != 200:
            return None
        ready, _ = await self._call("GET", node, "/readyz")
        members = view["nodes"]
        return Told(
            view["cluster"],
            view.get("epoch", 0),
            view["leader"],
            {each["name"]: each["state"] for each in members},
            {each["name"]: Place(each["http"], each["raft"]) for each in members},
            ready == 200,
        )

    async def reload(self, node: str) -> str | None:
        status, answer = await self._call("POST", node, f"{wire.API_PREFIX}/cluster/reload")
        return None if status == 200 else _detail(status, answer)

    async def admit(self, by: str, node: str) -> str | None:
        path = f"{wire.API_PREFIX}/cluster/replace-node"
        status, answer = await self._call("POST", by, path, {"node": node})
        return None if status == 200 else _detail(status, answer)

    async def answers(self, address: str) -> bool:
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return False
        writer.close()
        return True

    async def wait(self) -> bool:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        return time.monotonic() < self._until  # noqa: TID251 - how long a person waits

    async def _call(
        self, method: str, node: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer; 0: there was none."""
        url = f"{self._places[node].http.rstrip('/')}{path}"
        try:
            async with self._http.request(method, url, json=body) as response:
                return response.status, await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, {}


def _detail(status: int, answer: Mapping[str, Any]) -> str:
    return str(answer.get("detail", f"it answered {status}" if status else "it does not answer"))


async def run(plan: Plan, wait_seconds: float, say: Callable[[str], None]) -> None:
    """The whole of it, against the cluster that `plan` names. Raises `Unsafe`."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with calling.session(timeout) as http:
        await replace(plan, HttpWorld(http, plan.places, wait_seconds), say)
