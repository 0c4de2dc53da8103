"""kill -9 of nodes under load, again and again, and a check of everything that was acknowledged.

    python tools/kill_loop.py [--kills 200] [--all] [--compaction] [--minutes 20] [--seed 1]

Three real node processes on loopback. Several clients take and release locks over HTTP, each through
whichever node answers, and ask again under the same request id until they know the outcome. A random
node is killed (`--all`: all three in the same moment; 50 times unless told otherwise) and started
again. After each start the clients pause, and this is checked:

* the lock table, read through the node that has just started, is what the clients were told, to the
  token: no acknowledged grant and no acknowledged release is lost, and nothing is there that nobody has;
* every grant had a token above all that were acknowledged before its request was sent;
* at equal applied indices the states of the three nodes have equal hashes.

`--compaction` has the nodes take a snapshot every second or two, and makes half of the kills hit a
node that is writing one. One line a kill, then the verdict; the exit code is 0 if nothing was wrong,
1 if something was, 2 if the time was over before the last kill. The data and the logs of the nodes are kept
if something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from holdfast_coordinator.local_cluster import LocalCluster, LocalClusterError

CLIENTS = 6
TTL_MS = 3_600_000
"""Nothing expires while this runs: what ends, ends because a client said so."""
OWN_KEYS = 25
"""Of each client, for itself: their grants and releases must be exactly what it was told."""
SHARED_KEYS = 4
"""For all clients: one holder each."""
ASK_SECONDS = 5.0
"""One HTTP call. A waiter is answered within `WAIT_MS`."""
WAIT_MS = 200
RETRY_SECONDS = 0.05
OUTCOME_SECONDS_MAX = 60.0
"""A request without an outcome for so long means that the cluster does not recover."""
THINK_SECONDS = 0.02
"""The longest pause of a client between two requests: what starts should not have to fight for the processor."""
LOAD_SECONDS = (0.05, 0.25)
"""Before a kill, and between a kill and the next start."""
COMPACTING_SECONDS_MAX = 4.0
"""How long a kill waits for its victim to write a snapshot."""
COMPACTION = "snapshots: {after_entries: 200, keep_entries: 10}"
PAGE = 100


class Wrong(Exception):
    """A promise was broken; the message says which."""


@dataclass
class Told:
    """What the clients have been told; the cluster must agree whenever nothing is under way."""

    held: dict[str, int] = field(default_factory=dict)
    """Key to token. A release that was asked for is no longer in it."""
    highest_token: int = 0
    grants: int = 0
    releases: int = 0
    repeats: int = 0

    def granted(self, key: str, token: int, above: int) -> None:
        if token <= above:
            raise Wrong(f"{key}: token {token} after token {above} had been acknowledged")
        if key in self.held:
            raise Wrong(f"{key}: granted as {token} while {self.held[key]} holds it")
        self.held[key] = token
        self.highest_token = max(self.highest_token, token)
        self.grants += 1


class Client:
    """One session, one request at a time. Every request is asked until its outcome is known."""

    def __init__(
        self,
        number: int,
        urls: list[str],
        http: aiohttp.ClientSession,
        told: Told,
        rng: random.Random,
    ) -> None:
        self.session = f"kill-loop-client-{number:016d}-of-this-run"
        self._urls = urls
        self._http = http
        self._told = told
        self._rng = rng
        self._request_id = 0
        self._mine: dict[str, int] = {}
        self._own = [f"own/{number}/{each}" for each in range(OWN_KEYS)]
        self._shared = [f"shared/{each}" for each in range(SHARED_KEYS)]

    async def open(self) -> None:
        await self._outcome("/v1/sessions", {"session": self.session, "ttl_ms": TTL_MS})

    async def step(self) -> None:
        """Take a lock that it does not hold, or release the one that it drew."""
        key = self._rng.choice(self._own if self._rng.random() < 0.7 else self._shared)
        if key in self._mine:
            await self._release(key)
        else:
            await self._acquire(key)

    async def think(self) -> None:
        await asyncio.sleep(THINK_SECONDS * self._rng.random())

    async def _acquire(self, key: str) -> None:
        self._request_id += 1
        body = {
            "key": key,
            "session": self.session,
            "request_id": self._request_id,
            "settled": self._request_id - 1,
            "wait_ms": self._rng.choice((0, WAIT_MS)),
        }
        above = self._told.highest_token
        status, answer = await self._outcome("/v1/locks/acquire", body)
        if status == 200:
            self._told.granted(key, answer["token"], above)
            self._mine[key] = answer["token"]
        elif key in self._own:
            raise Wrong(f"{key}: nobody else asks for it, and yet it is {answer.get('code')}")

    async def _release(self, key: str) -> None:
        token = self._mine.pop(key)
        del self._told.held[key]
        status, answer = await self._outcome(
            "/v1/locks/release", {"token": token, "session": self.session}
        )
        if status != 200:
            raise Wrong(f"{key}: token {token} was granted, and now it is {answer.get('code')}")
        self._told.releases += 1

    async def _outcome(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, body) once the outcome is known: done, or definitely refused."""
        end = time.perf_counter() + OUTCOME_SECONDS_MAX
        while time.perf_counter() < end:
            url = self._rng.choice(self._urls)
            try:
                async with self._http.post(url + path, json=body) as response:
                    answer = await response.json(content_type=None)
                if response.status < 500:
                    if response.status not in (200, 201, 409):
                        raise Wrong(f"{path}: {response.status} {answer}")
                    return response.status, answer
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass  # no answer: unknown, and asked again
            self._told.repeats += 1
            await asyncio.sleep(RETRY_SECONDS * self._rng.random())
        raise Wrong(f"{path}: no outcome within {OUTCOME_SECONDS_MAX:g} s")


class Load:
    """The clients, running or paused between two requests."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._go = asyncio.Event()
        self._paused = [asyncio.Event() for _ in clients]
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self._go.set()
        self._tasks = [
            asyncio.create_task(self._run(client, paused))
            for client, paused in zip(self._clients, self._paused, strict=True)
        ]

    async def _run(self, client: Client, paused: asyncio.Event) -> None:
        while True:
            if not self._go.is_set():
                paused.set()
                await self._go.wait()
                paused.clear()
            await client.step()
            await client.think()

    async def watch(self, what: Awaitable[Any]) -> Any:
        """Do something while the load runs; a client that finds something wrong ends it."""
        doing = asyncio.ensure_future(what)
        try:
            done, _ = await asyncio.wait({doing, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {doing}:
                task.result()
            return await doing
        finally:
            doing.cancel()

    async def pause(self) -> None:
        """No request is under way afterwards."""
        self._go.clear()
        await self.watch(asyncio.gather(*(paused.wait() for paused in self._paused)))

    def go_on(self) -> None:
        for paused in self._paused:
            paused.clear()
        self._go.set()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Checks:
    """What must be so whenever nothing is under way."""

    def __init__(self, cluster: LocalCluster, http: aiohttp.ClientSession, told: Told) -> None:
        self._cluster = cluster
        self._http = http
        self._told = told

    async def all_through(self, node: str) -> None:
        await self._nothing_lost(node)
        await self._equal_hashes()

    async def leader(self) -> str | None:
        for name in self._cluster.running:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                leader: str | None = (await self._get(name, "/v1/cluster"))["leader"]
                return leader
        return None

    async def _get(self, node: str, path: str, **query: str) -> dict[str, Any]:
        async with self._http.get(self._cluster.url(node) + path, params=query) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            if response.status == 503:
                raise aiohttp.ClientError(str(answer))  # definite, and worth another try
            if response.status != 200:
                raise Wrong(f"{path} at {node}: {response.status} {answer}")
            return answer

    async def _table(self, node: str) -> dict[str, int]:
        table: dict[str, int] = {}
        query = {"limit": str(PAGE)}
        while True:
            page = await self._get(node, "/v1/locks", **query)
            for lock in page["locks"]:
                if len(lock["holders"]) > 1:
                    raise Wrong(f"{lock['key']} has {len(lock['holders'])} holders")
                for holder in lock["holders"]:
                    table[lock["key"]] = holder["token"]
            if page["next"] is None:
                return table
            query["after"] = page["next"]

    async def _nothing_lost(self, node: str) -> None:
        end = time.perf_counter() + OUTCOME_SECONDS_MAX
        while True:
            try:
                table = await self._table(node)
                break
            except (aiohttp.ClientError, TimeoutError):
                if time.perf_counter() > end:
                    raise Wrong(f"{node} answers no read for {OUTCOME_SECONDS_MAX:g} s") from None
                await asyncio.sleep(RETRY_SECONDS)
        told = self._told.held
        lost = {key: token for key, token in told.items() if table.get(key) != token}
        more = {key: token for key, token in table.items() if told.get(key) != token}
        if lost or more:
            raise Wrong(f"read through {node}: acknowledged {lost}, and there is {more}")

    async def _equal_hashes(self) -> None:
        end = time.perf_counter() + OUTCOME_SECONDS_MAX
        seen: list[tuple[int, str]] = []
        while time.perf_counter() < end:
            try:
                answers = await asyncio.gather(
                    *(
                        self._get(name, "/v1/cluster", state_hash="true")
                        for name in self._cluster.names
                    )
                )
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            seen = [(each["applied_index"], each["state_hash"]) for each in answers]
            by_index: dict[int, set[str]] = {}
            for index, state_hash in seen:
                by_index.setdefault(index, set()).add(state_hash)
            if any(len(hashes) > 1 for hashes in by_index.values()):
                raise Wrong(f"states differ at the same index: {seen}")
            if len(by_index) == 1:
                return
        raise Wrong(f"the nodes do not come to the same index: {seen}")


@dataclass
class Tally:
    """For the last line."""

    kills: int = 0
    leaders: int = 0
    while_compacting: int = 0


class KillLoop:
    """One run."""

    def __init__(
        self, options: argparse.Namespace, cluster: LocalCluster, http: aiohttp.ClientSession
    ) -> None:
        self.told = Told()
        self.tally = Tally()
        self._options = options
        self._cluster = cluster
        self._rng = random.Random(options.seed)  # noqa: S311 - a schedule, not a secret
        urls = [cluster.url(name) for name in cluster.names]
        self._clients = [
            Client(number, urls, http, self.told, random.Random(f"{options.seed}/{number}"))  # noqa: S311
            for number in range(CLIENTS)
        ]
        self._load = Load(self._clients)
        self._checks = Checks(cluster, http, self.told)

    async def run(self, say: Callable[[str], None]) -> None:
        """All kills. Raises `Wrong`."""
        await asyncio.gather(*(client.open() for client in self._clients))
        self._load.begin()
        try:
            for number in range(1, self._options.kills + 1):
                begun = time.perf_counter()
                victims = await self._one(number)
                seconds = time.perf_counter() - begun
                told = self.told
                say(
                    f"{number:4}/{self._options.kills}  killed {'+'.join(victims)}  {seconds:4.1f} s  "
                    f"{told.grants} grants, {told.releases} releases, {told.repeats} asked again, "
                    f"{len(told.held)} held"
                )
        finally:
            await self._load.end()

    async def _one(self, number: int) -> tuple[str, ...]:
        cluster, load = self._cluster, self._load
        names = cluster.names
        victims = names if self._options.all else (self._rng.choice(names),)
        await load.watch(asyncio.sleep(self._rng.uniform(*LOAD_SECONDS)))
        if self._options.compaction and number % 2:
            await load.watch(self._until_compacting(victims[0]))
        leader = await self._checks.leader()
        compacting = any(self._is_compacting(name) for name in victims)
        await asyncio.gather(*(cluster.kill(name) for name in victims))
        self.tally.kills += 1
        self.tally.leaders += leader in victims
        self.tally.while_compacting += compacting
        if not self._options.all:
            await load.watch(asyncio.sleep(self._rng.uniform(*LOAD_SECONDS)))
        await load.watch(cluster.start(*victims))
        await load.pause()
        await self._checks.all_through(self._rng.choice(victims))
        load.go_on()
        return victims

    def _is_compacting(self, name: str) -> bool:
        return any(self._cluster.data_dir(name).glob("snapshot-*.tmp"))

    async def _until_compacting(self, name: str) -> None:
        end = time.perf_counter() + COMPACTING_SECONDS_MAX
        while not self._is_compacting(name) and time.perf_counter() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.sleep(self._rng.uniform(0, 0.05))

    def snapshots(self) -> int:
        """How many nodes have one at the end."""
        return sum(
            any(self._cluster.data_dir(name).glob("snapshot-*[0-9]*"))
            for name in self._cluster.names
        )


async def kill_loop(options: argparse.Namespace, directory: Path) -> int:
    """The exit code."""
    settings = COMPACTION if options.compaction else ""
    say = _say if not options.quiet else _keep_silent
    begun = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    verdict, code = "nothing was lost", 0
    async with (
        aiohttp.ClientSession(timeout=timeout) as http,
        LocalCluster(directory, settings=settings) as cluster,
    ):
        loop = KillLoop(options, cluster, http)
        try:
            async with asyncio.timeout(options.minutes * 60):
                await loop.run(say)
            if options.compaction and loop.snapshots() < len(cluster.names):
                raise Wrong("no snapshot was taken: the compaction was not tested")
        except TimeoutError:
            verdict, code = f"not finished within {options.minutes:g} minutes", 2
        except (Wrong, LocalClusterError) as wrong:
            verdict, code = f"WRONG: {wrong}", 1
    told, tally = loop.told, loop.tally
    _say(
        f"{verdict}. {tally.kills} kills ({tally.leaders} with the leader, {tally.while_compacting} while a snapshot "
        f"was written), {told.grants} grants, {told.releases} releases, {told.repeats} asked again, highest token "
        f"{told.highest_token}, {time.perf_counter() - begun:.0f} s"
    )
    return code


def _say(line: str) -> None:
    print(line, flush=True)


def _keep_silent(line: str) -> None:
    del line


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, help="default: 200, with --all 50")
    parser.add_argument(
        "--all", action="store_true", help="kill all three nodes in the same moment"
    )
    parser.add_argument("--compaction", action="store_true", help="snapshots all the time")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="end after this time (exit code 2)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the schedule (processes add their own luck)"
    )
    parser.add_argument("--directory", type=Path, help="for data and logs; kept")
    parser.add_argument("--quiet", action="store_true", help="the verdict alone")
    options = parser.parse_args(arguments)
    if options.kills is None:
        options.kills = 50 if options.all else 200
    directory = options.directory or Path(tempfile.mkdtemp(prefix="holdfast-kill-loop-"))
    code = asyncio.run(kill_loop(options, directory))
    if options.directory is None and code != 1:
        shutil.rmtree(directory)
    elif code == 1:
        _say(f"data and logs: {directory}")
    return code


if __name__ == "__main__":
    sys.exit(main())
