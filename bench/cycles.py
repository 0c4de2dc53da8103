"""How many locks a second are taken and given back, and how long an acquire takes, beside the peers in the same run.

    python bench/cycles.py                       1, 16, 64 and 256 workers, every peer that is found, about 6 minutes
    python bench/cycles.py --quick               about a minute
    python bench/cycles.py --peers etcd,redis --workers 64

Rule: what is measured is what a user has: real processes with fsync on, the client library that people would choose, all of it on
this machine. A worker takes a key that nobody else wants and gives it back, in a closed loop. The contenders take turns, round by
round, so that whatever else the machine does hits all of them; the figures are medians of the rounds, and only their ratios mean
much. One Redis and one PostgreSQL are no replicated service: they are here because people use them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from typing import Any

from field import Field, names_of
from measuring import answer, parser, say
from peers import contender

WORKERS = "1,16,64,256"
ROUNDS, SECONDS, WARM_UP_SECONDS = 3, 2.5, 0.7
QUICK_ROUNDS, QUICK_SECONDS = 1, 1.5
WARM_UP_WORKERS = 64


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    counts = [int(each) for each in arguments.workers.split(",")]
    windows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    async with Field(names_of(arguments.peers), arguments.directory) as field:
        common = {"do": "cycles", "contended": False, "warm_up": WARM_UP_SECONDS}
        await field.warm_up(quick=arguments.quick, workers=WARM_UP_WORKERS, contended=False)
        for number in range(rounds):
            for workers in counts:
                for name in field.names:
                    got = await field.order(name, **common, workers=workers, seconds=seconds)
                    windows.setdefault((name, workers), []).append(got)
                    say(
                        f"round {number + 1}: {name:16} {workers:4} workers {got['per_second']:9,.0f} cycles/s"
                    )
        return {
            "what": "cycles",
            "rounds": rounds,
            "seconds": seconds,
            **field.facts,
            "rows": [
                {"contender": name, "workers": workers, **median(got)}
                for (name, workers), got in windows.items()
            ],
        }


def median(windows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure, the lowest and the highest rate, and the most that strangers used in one of the windows."""
    made = {
        key: round(statistics.median(each[key] for each in windows), 3)
        for key in windows[0]
        if key != "workers"
    }
    rates = [each["per_second"] for each in windows]
    return {
        **made,
        "per_second_min": min(rates),
        "per_second_max": max(rates),
        "cpu_other_max": max(each["cpu_other"] for each in windows),
    }


def table(result: dict[str, Any]) -> str:
    """For people: rates, and how many times the peer's rate Holdfast's is."""
    ours = {
        row["workers"]: row["per_second"]
        for row in result["rows"]
        if row["contender"] == "holdfast"
    }
    lines = [f"{'':26}{'workers':>8}{'cycles/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'Holdfast is':>13}"]
    for row in sorted(result["rows"], key=lambda row: row["workers"]):
        times = f"{ours[row['workers']] / row['per_second']:.1f} x"
        lines.append(
            f"{contender(row['contender']).title:26}{row['workers']:>8}{row['per_second']:>11,.0f}"
            f"{row['acquire_p50_ms']:>9.2f}{row['acquire_p99_ms']:>9.2f}"
            f"{'' if row['contender'] == 'holdfast' else times:>13}"
        )
    lines += [f"not found: {why}" for why in result["missing"].values()]
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--peers", help="some of them, e.g. etcd,redis; '' for none")
    options.add_argument("--workers", default=WORKERS)
    options.add_argument("--rounds", type=int)
    options.add_argument("--seconds", type=float, help="of each window")
    arguments = options.parse_args()
    result = asyncio.run(measure(arguments))
    answer(result, as_json=arguments.json, table=table(result))


if __name__ == "__main__":
    main()
