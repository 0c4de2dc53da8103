"""What happens under ten times the load that the cluster can take: what is still done, what is refused and how fast, who is lost.

    python bench/overload.py            about a minute and a half
    python bench/overload.py --quick

Rule: the load is so many callers with a connection each, spread over the nodes, who take and give back locks of their own over
plain HTTP as fast as they are answered. The load that the cluster can take is found first: as many callers as it serves in a
quarter of a second each. What is done at that load is the `peak`; it is not the highest of many loads. The overload is ten times
as many callers (`--factor`), who would wait for two and a half seconds if all were let in. They are callers, not requests: whoever
is told `overloaded` asks again after the `retry_after_ms` of the answer, as a client should, and is silent until then. Meanwhile
STEADY sessions of 10 s are renewed by the Python client in a process of its own, and none may be lost. The callers share the
machine with the nodes, so what they cost is missing from the goodput, too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop
from field import Field
from measuring import Usage, answer, parser, percentile, resident_mib, say
from peers.processes import free_files
from raw_http import Connection, Lost, open_many

FACTOR = 10
SERVED_WITHIN_SECONDS = 0.25
BASE_MIN, BASE_MAX = 50, 2_000
PROBE_CALLERS, PROBE_SECONDS = 64, 3.0
STEADY = 100
STEADY_TTL_SECONDS = 10.0
SECONDS, QUICK_SECONDS = 12.0, 4.0
WARM_UP_SECONDS = 3.0
IMPLICIT_TTL_MS = 60_000


@dataclass(slots=True)
class Seen:
    """What the callers were told in one window."""

    cycles: int = 0
    latencies: list[float] = field(default_factory=list)
    """Of acquires that were granted, in seconds."""
    refusals: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)


class Callers:
    """So many closed loops. `seen` may be replaced at any time to begin a window."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.stopping = False
        self._numbers = itertools.count()
        self._prefix = f"overload/{secrets.token_hex(4)}"  # a window before may have left locks

    async def run(self, connection: Connection) -> None:
        while not self.stopping:
            try:
                await self._cycle(connection)
            except Lost:
                self.seen.codes["connection lost"] += 1
                return

    async def _cycle(self, connection: Connection) -> None:
        asked = time.perf_counter()
        body = {"key": f"{self._prefix}/{next(self._numbers)}", "ttl_ms": IMPLICIT_TTL_MS}
        status, told = await connection.post("/v1/locks/acquire", body)
        took = time.perf_counter() - asked
        if status != 200:
            await self._refused(told, took)
            return
        self.seen.latencies.append(took)
        body = {"token": told["token"], "session": told["session"]}
        while not self.stopping:
            status, told = await connection.post("/v1/locks/release", body)
            if status == 200:
                self.seen.cycles += 1
                return
            await self._refused(told, 0.0)

    async def _refused(self, told: dict[str, Any], took: float) -> None:
        self.seen.codes[told["code"]] += 1
        if told["code"] == "overloaded" and took > 0:
            self.seen.refusals.append(took)
        await asyncio.sleep(told.get("retry_after_ms", 0) / 1000)


async def window(cluster_field: Field, callers: int, seconds: float) -> dict[str, Any]:
    """The load of so many callers, after a warm-up."""
    server = cluster_field.server_of("holdfast")
    parts = [urlsplit(each) for each in server.address.split(",")]
    connections = await open_many([(str(p.hostname), int(p.port or 0)) for p in parts], callers)
    load = Callers()
    running = [asyncio.ensure_future(load.run(each)) for each in connections]
    await asyncio.sleep(WARM_UP_SECONDS)
    load.seen, usage, memory = Seen(), Usage(server.pids), 0.0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        await asyncio.sleep(0.5)
        memory = max(memory, *(resident_mib(pid) for pid in server.pids))
    seen, used = load.seen, usage.end()
    load.stopping = True
    _, pending = await asyncio.wait(running, timeout=10)
    for each in pending:
        each.cancel()
    for connection in connections:
        connection.close()
    granted, refused = sorted(seen.latencies), sorted(seen.refusals)
    return {
        "callers": callers,
        "per_second": round(seen.cycles / used["seconds"], 1),
        "acquire_p50_ms": round(percentile(granted, 0.5) * 1000, 1),
        "acquire_p99_ms": round(percentile(granted, 0.99) * 1000, 1),
        "refused_per_second": round(len(refused) / used["seconds"], 1),
        "refused_p50_ms": round(percentile(refused, 0.5) * 1000, 1) if refused else None,
        "refused_p99_ms": round(percentile(refused, 0.99) * 1000, 1) if refused else None,
        "codes": dict(seen.codes),
        "mib_max": round(memory, 1),
        **used,
    }


async def _can_take(cluster_field: Field) -> int:
    """How many callers at a time are each served within SERVED_WITHIN_SECONDS."""
    probe = await window(cluster_field, PROBE_CALLERS, PROBE_SECONDS)
    return max(BASE_MIN, min(BASE_MAX, int(probe["per_second"] * SERVED_WITHIN_SECONDS)))


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    free_files()
    async with Field(["holdfast"], arguments.directory) as cluster_field:
        steady = asyncio.ensure_future(
            cluster_field.order(
                "holdfast",
                again=False,
                do="idle",
                sessions=STEADY,
                ttl_seconds=STEADY_TTL_SECONDS,
                seconds=3 * (seconds + WARM_UP_SECONDS) + PROBE_SECONDS + 5,
            )
        )
        base = arguments.base or await _can_take(cluster_field)
        rows = []
        for name, callers in (
            ("peak", base),
            ("overload", base * arguments.factor),
            ("after", base),
        ):
            rows.append({"load": name, **await window(cluster_field, callers, seconds)})
            say(
                f"{name:9} {callers:6,} callers: {rows[-1]['per_second']:,.0f} cycles/s {rows[-1]['codes']}"
            )
        why = ""
        try:
            await steady
        except RuntimeError as error:
            why = str(error)
        return {
            "what": "overload",
            "rows": rows,
            "goodput_of_peak": round(rows[1]["per_second"] / rows[0]["per_second"], 3),
            "steady_sessions": STEADY,
            "steady_lost": why or None,
            **cluster_field.facts,
        }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{'':9}{'callers':>9}{'cycles/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'refused/s':>11}{'in ms (p99)':>13}{'MiB':>7}"
    ]
    for row in result["rows"]:
        refused = "" if row["refused_p99_ms"] is None else f"{row['refused_p99_ms']:.0f}"
        lines.append(
            f"{row['load']:9}{row['callers']:>9,}{row['per_second']:>10,.0f}{row['acquire_p50_ms']:>9.0f}"
            f"{row['acquire_p99_ms']:>9.0f}{row['refused_per_second']:>11,.0f}{refused:>13}{row['mib_max']:>7.0f}"
        )
    lost = (
        result["steady_lost"] or f"none of {result['steady_sessions']} renewing sessions was lost"
    )
    lines += [f"goodput under overload: {result['goodput_of_peak']:.0%} of the peak; {lost}"]
    lines += [f"{row['load']}: other answers: {row['codes']}" for row in result["rows"]]
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--base", type=int, help="callers that it can take (default: found out)")
    options.add_argument("--factor", type=int, default=FACTOR, help="how many times that")
    options.add_argument("--seconds", type=float, help="of each window")
    arguments = options.parse_args()
    result = uvloop.run(measure(arguments))
    answer(result, as_json=arguments.json, table=table(result))


if __name__ == "__main__":
    main()
