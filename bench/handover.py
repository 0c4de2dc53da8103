"""How fast one contended key goes from hand to hand, among 16 workers that all wait for it, and whether they get equal shares.

    python bench/handover.py           three rounds, about two minutes and a half
    python bench/handover.py --quick

Rule: nobody holds the key longer than an instant, so the rate is what the service itself allows. In Holdfast a release and the
grant to the next waiter are one log entry, so its limit is one commit at a time: that is measured in the same run, by one worker
that does nothing but acquire and release (two commits a cycle). The time between two grants is the hand-over; its p99 counts.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from cycles import median
from field import Field, names_of
from measuring import answer, parser, say
from peers import contender

WAITERS = 16
ROUNDS, SECONDS, WARM_UP_SECONDS = 3, 3.0, 0.7
QUICK_ROUNDS, QUICK_SECONDS = 1, 2.0
COMMITS_PER_CYCLE = 2


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    windows: dict[str, list[dict[str, Any]]] = {}
    limits: list[float] = []
    async with Field(names_of(arguments.peers), arguments.directory) as field:
        await field.warm_up(quick=arguments.quick, workers=arguments.waiters, contended=True)
        common = {"do": "cycles", "warm_up": WARM_UP_SECONDS, "seconds": seconds}
        for number in range(rounds):
            alone = await field.order("holdfast", **common, workers=1, contended=False)
            limits.append(alone["per_second"] * COMMITS_PER_CYCLE)
            for name in field.names:
                got = await field.order(name, **common, workers=arguments.waiters, contended=True)
                got["of_limit"] = got["per_second"] / limits[-1]
                windows.setdefault(name, []).append(got)
                say(f"round {number + 1}: {name:16} {got['per_second']:8,.0f} hand-overs/s")
        return {
            "what": "handover",
            "waiters": arguments.waiters,
            **field.facts,
            "one_commit_at_a_time": sorted(limits)[len(limits) // 2],
            "rows": [{"contender": name, **median(got)} for name, got in windows.items()],
        }


def table(result: dict[str, Any]) -> str:
    ours = next(row for row in result["rows"] if row["contender"] == "holdfast")
    lines = [
        f"{'':26}{'hand-overs/s':>13}{'p99 ms':>9}{'shares of the workers':>24}{'Holdfast is':>13}"
    ]
    for row in result["rows"]:
        shares = f"{row['worker_min']:,.0f} to {row['worker_max']:,.0f}"
        times = f"{ours['per_second'] / row['per_second']:.1f} x"
        lines.append(
            f"{contender(row['contender']).title:26}{row['per_second']:>13,.0f}"
            f"{row['between_grants_p99_ms']:>9.2f}{shares:>24}{'' if row is ours else times:>13}"
        )
    limit = result["one_commit_at_a_time"]
    lines.append(
        f"one commit at a time: {limit:,.0f}/s; Holdfast hands over at {ours['of_limit']:.0%} of that"
    )
    lines += [f"not found: {why}" for why in result["missing"].values()]
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--peers", help="some of them, e.g. etcd,zookeeper-wire; '' for none")
    options.add_argument("--waiters", type=int, default=WAITERS)
    arguments = options.parse_args()
    result = asyncio.run(measure(arguments))
    answer(result, as_json=arguments.json, table=table(result))


if __name__ == "__main__":
    main()
