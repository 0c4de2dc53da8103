"""The live half: its plans are data, its faults are seen before they count, and a short run on real processes is valid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from holdfast_coordinator.machine import Record
from holdfast_jepsen.faults.plan import Fault
from holdfast_jepsen.history import Belief, History, Lease, Operation
from holdfast_jepsen.live import judge, mutant, namespaces, plan
from holdfast_jepsen.live.client import KeptHistory, read_histories
from holdfast_jepsen.live.clients import Clients
from holdfast_jepsen.live.cluster import session_ref
from holdfast_jepsen.live.namespaces import Namespaces
from holdfast_jepsen.live.nemesis import Nemesis
from holdfast_jepsen.live.network import CLIENTS
from holdfast_jepsen.live.proxies import Proxies
from holdfast_jepsen.sim.rng import Rng
from holdfast_jepsen.sim.world import SECOND

NAMES = ("n1", "n2", "n3")
ARRIVES_SECONDS = 30.0
"""A bound for a busy machine, not a figure."""


def test_a_plan_makes_every_kind_before_any_comes_again() -> None:
    """The same seed draws the same faults, each within its time, and none is left out by chance."""
    kinds = plan.kinds_of(["kill", "partition"])
    faults = plan.draw(Rng(3, "live faults"), begin=0, end=120 * SECOND, kinds=kinds)
    assert faults == plan.draw(Rng(3, "live faults"), begin=0, end=120 * SECOND, kinds=kinds)
    assert {fault.kind for fault in faults[: len(kinds)]} == set(kinds)
    assert all(fault.at + fault.duration <= 120 * SECOND for fault in faults)


def test_a_nemesis_is_a_group_or_a_kind_and_anything_else_is_refused() -> None:
    """`pause-client` is one kind; `clients` are three; a name that nobody knows says what there is."""
    assert plan.kinds_of(["pause-client"]) == ("pause-client",)
    assert plan.kinds_of(["clients"]) == plan.GROUPS["clients"]
    assert plan.kinds_of(["all"]) == plan.KINDS
    with pytest.raises(ValueError, match="no nemesis 'earthquake'; there are kill, restart, pause"):
        plan.kinds_of(["earthquake"])


async def test_a_link_of_namespaces_is_cut_in_one_direction_and_mended() -> None:
    """n1 no longer reaches n2, which still reaches n1; afterwards as before, and no namespace is left. (Root only.)"""
    if (reason := namespaces.why_not()) is not None:
        assert reason  # then `auto` takes proxies, and says why: see the smoke
        return
    async with Namespaces(NAMES) as network:
        assert await network.passes(("n1", "n2"))
        await network.cut([("n1", "n2")])
        assert not await network.passes(("n1", "n2"))
        assert await network.passes(("n2", "n1"))
        assert await network.passes((CLIENTS, "n2"))
        await network.mend([("n1", "n2")])
        assert await network.passes(("n1", "n2"))
    assert list(namespaces.RUN_NETNS.glob(f"{namespaces.PREFIX}{os.getpid()}-*")) == []


async def test_a_cut_proxy_holds_back_what_is_sent_until_it_is_mended() -> None:
    """Nothing arrives over a cut link, in that direction only; what was held back arrives in order when it is mended."""
    async with Proxies(NAMES) as network:
        got: asyncio.Queue[bytes] = asyncio.Queue(maxsize=100)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            while piece := await reader.read(100):
                got.put_nowait(piece)
            writer.close()

        own = network.addresses("n2")["n2"][1]
        door = network.addresses("n1")["n2"][1]
        assert own != door
        server = await asyncio.start_server(serve, "127.0.0.1", int(own.split(":")[1]))
        reader, writer = await asyncio.open_connection("127.0.0.1", int(door.split(":")[1]))
        async with asyncio.timeout(ARRIVES_SECONDS):
            assert await reader.read(5) == b"hello"
            await network.cut([("n1", "n2")])
            writer.write(b"one")
            assert not await network.passes(("n1", "n2"))
            assert got.empty()
            assert await network.passes(("n2", "n1"))
            writer.write(b"two")
            await network.mend([("n1", "n2")])
            arrived = b""
            while arrived != b"onetwo":
                arrived += await got.get()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        server.close()


def test_what_a_killed_client_had_asked_for_is_unknown(tmp_path: Path) -> None:
    """time 0: it asks; time 1: it is killed. The file has the request, and the last word about each thing."""
    kept = KeptHistory(tmp_path / "c1.jsonl")
    session = session_ref("c1-0123456789abcdef")
    first = Operation("c1", "acquire", ("k",), session, 1)
    kept.operations.append(first)
    kept.keep(1)
    first.result, first.returned, first.token = "ok", 2, 7
    kept.leases.append(Lease(session, 1, 100))
    kept.beliefs.append(Belief(session, "k", 7, 2, 90))
    kept.operations.append(Operation("c1", "release", ("k",), session, 5, token=7))
    kept.keep(5)
    history = read_histories([tmp_path / "c1.jsonl"])
    assert [(each.kind, each.result, each.token) for each in history.operations] == [
        ("acquire", "ok", 7),
        ("release", "unknown", 7),
    ]
    assert {each.session for each in history.operations} == {session}
    assert history.leases == [Lease(session, 1, 100)]
    assert history.beliefs == [Belief(session, "k", 7, 2, 90)]
    kept.close(5)


async def test_each_act_has_its_own_time() -> None:
    """Of two faults that overlap, the one that ends first says nothing of when the other began; one without effect says so."""
    now = 0
    ended = asyncio.Event()
    nemesis = Nemesis(
        SimpleNamespace(names=NAMES), SimpleNamespace(count=1, pause=lambda place: 0),  # type: ignore[arg-type]
        None, {}, lambda line: None, lambda: now,  # type: ignore[arg-type]
    )  # fmt: skip

    async def long(fault: Fault, rng: Rng) -> bool:
        nemesis._note(fault, "long")
        await ended.wait()
        return True

    async def short(fault: Fault, rng: Rng) -> bool:
        return False

    nemesis._actions |= {"kill": long, "pause": short}
    first, second = Fault(0, "kill", SECOND, 1), Fault(1, "pause", SECOND, 2)
    now = 10
    acting = asyncio.ensure_future(nemesis.act(first))
    await asyncio.sleep(0)
    now = 20
    await nemesis.act(second)
    now = 30
    ended.set()
    await acting
    assert nemesis.acts == [(first, 10, "long"), (second, 20, "without effect")]
    assert nemesis.fired == {"kill": 1}


async def test_a_node_has_one_fault_of_its_queue_at_a_time() -> None:
    """Delay and loss share the queue of a node: the second waits, and neither ends the other."""
    seen: list[tuple[str, int]] = []

    async def slow(name: str, much: int) -> str:
        seen.append(("slow", much))
        return "sent over a narrow link"

    async def lose(name: str, much: int) -> str:
        seen.append(("lose", much))
        return f"{much} % lost"

    async def disturbed(name: str) -> int:
        return 1

    network = SimpleNamespace(slow=slow, lose=lose, disturbed=disturbed)
    cluster = SimpleNamespace(names=("n1",), network=network)
    nemesis = Nemesis(cluster, None, None, {}, lambda line: None, lambda: 0)  # type: ignore[arg-type]
    faults = [Fault(0, kind, 1, 1) for kind in ("slow-links", "loss")]
    await asyncio.gather(*map(nemesis.act, faults))
    assert [kind for kind, _ in seen] == ["slow", "slow", "lose", "lose"]
    assert seen[1][1] == seen[3][1] == 0
    assert nemesis.acts[0][2] == "n1: sent over a narrow link"


def test_lost_packets_are_proved_by_those_that_were_dropped() -> None:
    """As `tc -s -j` tells: packets that passed through a queue that loses some prove nothing."""
    counts = {"packets": 9, "drops": 0, "overlimits": 3}
    netem = {**counts, "kind": "netem"}
    loss = {"loss-random": {"loss": 0.05, "correlation": 0}}
    delay = {"delay": {"delay": 0.02, "jitter": 0.01, "correlation": 0}}
    assert netem[namespaces._proof({**netem, "options": loss})] == 0
    assert netem[namespaces._proof({**netem, "options": delay})] == 9
    assert netem[namespaces._proof({**netem, "kind": "tbf", "options": {}})] == 3


async def test_a_client_that_ended_by_itself_is_told_of(tmp_path: Path) -> None:
    """Also if a fault has put another in its place before the run is over."""

    async def ends(status: int) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", f"raise SystemExit({status})"
        )
        await process.wait()
        return process

    clients = Clients(tmp_path, count=1, workload="", seed=1, urls=[], began=0)
    clients._places = [await ends(3)]
    clients._new = lambda: ends(0)  # type: ignore[method-assign]
    assert not await clients.replace(0)
    await clients.end()
    assert clients.broken == ["a client ended with 3: see clients.log"]


def test_a_mutant_of_the_simulated_disk_is_no_control_of_a_live_run() -> None:
    """A real node would not be changed by it, and the run would be valid for that reason."""
    assert mutant.is_available("fast-time")
    assert not mutant.is_available("sync-does-nothing")
    assert not mutant.is_available("answers-before-sync")


def busy_history() -> History:
    """Two grants a second for ten seconds."""
    history = History()
    for number in range(20):
        at = number * SECOND // 2
        history.operations += [
            Operation("a", "acquire", ("k",), "a", at, at + 1, "ok", token=number + 1),
            Operation("a", "release", ("k",), "a", at + 2, at + 3, "ok", token=number + 1),
        ]
    return history


def verdict_of(history: History, **changes: object) -> judge.Judgement:
    asked: dict[str, object] = {
        "told": {}, "failures": [], "missing": [], "planned": Counter(kill=1), "fired": Counter(kill=1),
        "phases": (2 * SECOND, 8 * SECOND, 10 * SECOND), "broken": [], **changes,
    }  # fmt: skip
    return judge.judge(history, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "answer", "told"),
    [
        ({}, "valid", ""),
        ({"fired": Counter()}, "unknown", "no kill had an effect"),
        ({"phases": (2 * SECOND, 11 * SECOND, 14 * SECOND)}, "unknown", "0.0 answers a second after"),
        ({"broken": ["a client ended with 1"]}, "unknown", "a client ended"),
        ({"missing": ["k3"]}, "invalid", "not every key could be had: k3"),
        ({"failures": ["n1 ended by itself with 1"]}, "invalid", "n1 ended by itself"),
    ],
)  # fmt: skip
def test_a_run_that_proves_nothing_is_not_valid(
    changes: dict[str, object], answer: str, told: str
) -> None:
    """What is wrong with the product is invalid; a doubt about the run is unknown; only without either it is valid."""
    verdict = verdict_of(busy_history(), **changes)
    assert verdict.answer == answer
    assert told in " ".join(verdict.reasons)


def test_what_is_older_than_the_trail_is_not_asked_of_it() -> None:
    """The trail keeps the last grants only: that it lacks the older ones is no lie, that it lacks a newer one is."""
    history = busy_history()
    told = story_of(range(11, 21))
    assert verdict_of(history, told=told).answer == "valid"
    del told[2 * 15]
    assert (
        "token 15 was granted, and watchers were told None"
        in verdict_of(history, told=told).reasons
    )


def test_an_end_that_watchers_were_not_told_is_found() -> None:
    """A release that was answered before somebody asked for what was granted next is told too; only the last may be missing."""
    told = story_of(range(11, 21))
    del told[2 * 20 + 1]
    assert verdict_of(busy_history(), told=told).answer == "valid"
    del told[2 * 15 + 1]
    assert verdict_of(busy_history(), told=told).reasons == [
        "token 15 was released, and watchers were not told"
    ]


def story_of(tokens: range) -> dict[int, Record]:
    """Of the busy history: each granted, and ended by its release."""
    told = {}
    for token in tokens:
        told[2 * token] = Record(2 * token, "granted", 0, 0, token, ("k",))
        told[2 * token + 1] = Record(2 * token + 1, "ended", 0, 0, token, ("k",), ended="released")
    return told


def test_a_double_grant_is_found_in_a_live_history() -> None:
    """The judge of the live half asks the same checkers as the simulator's."""
    history = busy_history()
    history.operations.append(Operation("b", "acquire", ("k",), "b", 1, 2, "ok", token=1))
    verdict = verdict_of(history)
    assert verdict.answer == "invalid"
    assert verdict.illegal_keys == ("k",)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_short_run_on_real_processes_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three nodes, real clients, a node killed, paused and cut off: in namespaces as root, through proxies otherwise (it says
    which). The history and the page are written, and nothing is left behind."""
    done = subprocess.run(  # noqa: S603 - this interpreter
        [
            sys.executable, "-m", "holdfast_jepsen", "live", "--nemesis", "kill-leader,pause,isolate",
            "--time", "6", "--seed", "7", "--out", str(tmp_path),
        ],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    expected = "proxies" if namespaces.why_not() is not None else "namespaces"
    assert f"network: {expected}" in done.stdout
    with capsys.disabled():
        print(f"\nlive smoke: network {expected}")  # noqa: T201 - whoever runs the tests is told
    assert done.stdout.endswith("valid\n")
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert any(row["type"] == "operation" and row["result"] == "ok" for row in rows)
    assert "<h1>Live run, seed 7: valid</h1>" in (tmp_path / "report.html").read_text()
    assert not [
        each
        for each in namespaces.RUN_NETNS.glob(f"{namespaces.PREFIX}*")
        if not Path("/proc", each.name.split("-")[2]).exists()
    ]
