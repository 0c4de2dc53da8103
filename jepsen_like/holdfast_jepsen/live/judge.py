"""What a live run is worth: the checkers of the simulator over its history, and what the nodes say of themselves afterwards.

Rule: a sentence about the product makes the run `invalid`; a doubt about the run itself makes it `unknown`; only without either
is it `valid`.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast_coordinator.machine import Record
from holdfast_jepsen.checker import linearizability, orders, story
from holdfast_jepsen.history import History
from holdfast_jepsen.sim.world import SECOND

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

    import aiohttp

    from holdfast_jepsen.history.history import Operation
    from holdfast_jepsen.live.cluster import LiveCluster

ANSWERS_PER_SECOND_MIN = 1.0
"""Before, during and after the faults; fewer, and the run says nothing. An idle machine gives hundreds, a busy one tens."""
AGREE_SECONDS = 30.0
"""For all nodes to come to one applied index, once nobody asks any more."""
LOOK_SECONDS = 0.2
PAGE = 1_000


@dataclass(slots=True)
class Judgement:
    """`answer`: valid, invalid or unknown. `illegal_keys`: those whose history no order explains."""

    answer: str
    reasons: list[str]
    rates: tuple[float, float, float]
    culprits: tuple[Operation, ...] = ()
    illegal_keys: tuple[str, ...] = ()


def judge(
    history: History,
    *,
    told: Mapping[int, Record],
    failures: Sequence[str],
    missing: Sequence[str],
    planned: Counter[str],
    fired: Counter[str],
    phases: tuple[int, int, int],
    broken: Sequence[str],
) -> Judgement:
    """Of one run. `phases`: when the faults began, when they were healed, and when the clients ended."""
    found = [*failures, *orders.token_order(history), *orders.beliefs(history)]
    found += orders.sessions_last(history)
    found += story.check(_since(history, told), told)
    doubts = list(broken)
    culprits: list[Operation] = []
    illegal: list[str] = []
    for verdict in linearizability.check(history):
        if verdict.answer == "illegal":
            found.append(f"key {verdict.key}: {verdict.why}")
            culprits += verdict.culprits
            illegal.append(verdict.key)
        elif verdict.answer == "unknown":
            doubts.append(f"key {verdict.key}: {verdict.why}")
    if missing:
        found.append(f"after the heal not every key could be had: {', '.join(missing)}")
    rates = rates_of(history, phases)
    for name, rate in zip(("before", "during", "after"), rates, strict=True):
        if rate < ANSWERS_PER_SECOND_MIN:
            doubts.append(f"only {rate:.1f} answers a second {name} the faults")
    doubts += [f"no {kind} had an effect" for kind in sorted(planned) if not fired[kind]]
    answer = "invalid" if found else "unknown" if doubts else "valid"
    return Judgement(answer, found + doubts, rates, tuple(culprits), tuple(illegal))


def _since(history: History, told: Mapping[int, Record]) -> History:
    """Without what is older than the trail: it is bounded, and a long run fills it."""
    first = min((each.token for each in told.values() if each.kind == "granted"), default=0)
    return History([each for each in history.operations if each.token >= first])


def rates_of(history: History, phases: tuple[int, int, int]) -> tuple[float, float, float]:
    """Answers a second before, during and after the faults."""
    answered = sorted(
        each.returned
        for each in history.operations
        if each.returned is not None and each.result != "unknown"
    )
    first = answered[0] if answered else 0
    bounds = (first, *phases)
    rates = [
        sum(low <= at < high for at in answered) / max((high - low) / SECOND, 0.001)
        for low, high in itertools.pairwise(bounds)
    ]
    return rates[0], rates[1], rates[2]


async def agreement(
    cluster: LiveCluster, http: aiohttp.ClientSession
) -> tuple[list[str], list[str]]:
    """Nobody asks any more: all nodes come to one applied index, with one state. (What is wrong, what could not be compared)"""
    loop = asyncio.get_running_loop()
    end = loop.time() + AGREE_SECONDS
    seen: list[Any] = []
    while loop.time() < end:
        seen = [await cluster.status(name, http, state_hash="true") for name in cluster.names]
        if all(each is not None for each in seen):
            states = {(each["applied_index"], each["state_hash"]) for each in seen}
            indices = {index for index, _ in states}
            if len(indices) < len(states):
                return [f"at one index the nodes have different states: {sorted(states)}"], []
            if len(states) == 1:
                return [], []
        await asyncio.sleep(LOOK_SECONDS)
    seen = [await cluster.status(name, http) for name in cluster.names]
    if None not in seen and len({each["applied_index"] for each in seen}) == 1:
        # A node refuses to hash a state of tens of thousands of things: it would stand still meanwhile.
        return [], ["the nodes are at one index, and would not say the hash of their states"]
    shown = [each and (each["node"], each["applied_index"], each["leader"]) for each in seen]
    return [f"{AGREE_SECONDS:g} s after the last request the nodes do not agree: {shown}"], []


async def story_of(
    cluster: LiveCluster, http: aiohttp.ClientSession, keys: Sequence[str]
) -> tuple[dict[int, Record], list[str]]:
    """(what each node tells that has happened, by revision; sentences, where two tell different stories)"""
    told: dict[int, Record] = {}
    found: list[str] = []
    for name in cluster.names:
        for key in keys:
            after = 0
            while True:
                page = await cluster.get(
                    name, http, "/v1/history", key=key, after=str(after), limit=str(PAGE),
                    consistency="local",
                )  # fmt: skip
                if page is None:
                    found.append(f"{name} does not tell the history of {key}")
                    break
                for row in page["records"]:
                    record = Record(**{**row, "keys": tuple(row["keys"])})
                    known = told.setdefault(record.revision, record)
                    if known != record:
                        found.append(
                            f"{name} says that {record.revision} was {record}, not {known}"
                        )
                if page["next"] is None:
                    break
                after = page["next"]
    return told, found
