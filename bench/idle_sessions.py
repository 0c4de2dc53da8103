"""What sessions cost that do nothing but stay alive: the CPU of all three nodes, beside etcd's and ZooKeeper's.

    python bench/idle_sessions.py                10,000 sessions of 10 s, 30 s each, about four minutes
    python bench/idle_sessions.py --quick        1,000 sessions, 8 s

Rule: every session holds one lock and is renewed each third of its TTL. ZooKeeper's have a connection each, for there a session is
one; etcd's leases are all kept alive on one connection; a thousand sessions of Holdfast at a time share the connections of one
process. Only the servers' CPU counts. A session that is lost fails the measurement.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from field import Field, names_of
from measuring import Usage, answer, parser, say
from peers import contender

SESSIONS, SECONDS = 10_000, 30.0
QUICK_SESSIONS, QUICK_SECONDS = 1_000, 8.0
TTL_SECONDS = 10.0
CAN_IDLE = ("holdfast", "etcd", "zookeeper-wire")


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    sessions = arguments.sessions or (QUICK_SESSIONS if arguments.quick else SESSIONS)
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    rows = []
    names = [name for name in names_of(arguments.peers) if name in CAN_IDLE]
    facts: dict[str, Any] = {"versions": {}, "missing": {}, "retried": []}
    for name in names:
        # One after the other, each alone: thousands of connections of one would be in the way of the next.
        async with Field([name], arguments.directory) as field:
            if name not in field.names:
                facts["missing"] |= field.facts["missing"]
                continue
            before = await _resting(field, name)
            got = await field.order(
                name, do="idle", sessions=sessions, ttl_seconds=TTL_SECONDS, seconds=seconds
            )
            rows.append({"contender": name, "cpu_without": before, **got})
            facts["versions"] |= field.facts["versions"]
            facts["retried"] += field.facts["retried"]
            say(f"{name:16} {got['cpu_server']:.0%} of a core for {sessions:,} sessions")
    return {
        "what": "idle_sessions",
        "sessions": sessions,
        "ttl_seconds": TTL_SECONDS,
        **facts,
        "rows": rows,
    }


async def _resting(field: Field, name: str, seconds: float = 3.0) -> float:
    """Cores that the servers use without any session."""
    await asyncio.sleep(2)
    usage = Usage(field.server_of(name).pids)
    await asyncio.sleep(seconds)
    return usage.end()["cpu_server"]


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['sessions']:,} sessions of {result['ttl_seconds']:g} s; CPU of all servers, in per cent of one core",
        f"{'':26}{'idle':>8}{'with none':>11}",
    ]
    for row in result["rows"]:
        title = contender(row["contender"]).title
        lines.append(f"{title:26}{row['cpu_server']:>8.1%}{row['cpu_without']:>11.1%}")
    lines += [f"not found: {why}" for why in result["missing"].values()]
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--peers", help="some of them, e.g. etcd; '' for none")
    options.add_argument("--sessions", type=int)
    arguments = options.parse_args()
    result = asyncio.run(measure(arguments))
    answer(result, as_json=arguments.json, table=table(result))


if __name__ == "__main__":
    main()
