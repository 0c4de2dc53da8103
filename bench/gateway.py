"""Lock cycles a second over plain HTTP with JSON, by wrk with 64 kept-alive connections: Holdfast beside etcd's JSON gateway.

    python bench/gateway.py            three rounds, about half a minute
    python bench/gateway.py --quick

Rule: this is what a client in any language gets that has nothing but HTTP. Both are asked at their leader, in turns. A cycle is two
successful answers: an acquire and a release.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import aiohttp
import wrk
from cycles import median
from field import Field, names_of
from measuring import answer, parser, say

CONNECTIONS = 64
HAVE_HTTP = ("holdfast", "etcd")
ROUNDS, SECONDS = 3, 4.0
QUICK_ROUNDS, QUICK_SECONDS = 1, 2.0
WARM_UP_SECONDS = 1.0
SESSION_SECONDS = 600


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    connections = arguments.connections
    result: dict[str, Any] = {"what": "gateway", "connections": connections, "rows": []}
    if not wrk.is_there():
        return {**result, "missing": {"wrk": wrk.HOW_TO_INSTALL}, "versions": {}}
    windows: dict[str, list[dict[str, Any]]] = {}
    names = [name for name in names_of(arguments.peers) if name in HAVE_HTTP]
    async with Field(names, arguments.directory) as field:
        addresses = {name: await _prepared(field, name) for name in field.names}
        for number in range(-1, rounds):
            for name, (url, environment) in addresses.items():
                got = await wrk.run(
                    url,
                    f"gateway_{name}.lua",
                    connections=connections,
                    seconds=seconds if number >= 0 else WARM_UP_SECONDS,
                    servers=field.server_of(name).pids,
                    environment={**environment, "CONNECTIONS": str(connections)},
                )
                got["per_second"] = round(got["per_second"] / 2, 1)
                if number >= 0:
                    windows.setdefault(name, []).append(got)
                    say(f"round {number + 1}: {name:9} {got['per_second']:8,.0f} cycles/s")
        result |= field.facts
    result["rows"] = [{"contender": name, **median(got)} for name, got in windows.items()]
    return result


async def _prepared(field: Field, name: str) -> tuple[str, dict[str, str]]:
    """Where wrk asks, and under which session or lease."""
    address = field.server_of(name).address
    if name == "etcd":
        from peers import etcd_client

        port = await etcd_client.leader_port(address)
        async with etcd_client.connected(port) as client:
            lease = await client.grant(etcd_client.pb.GrantRequest(ttl=SESSION_SECONDS))
        return f"http://127.0.0.1:{port}", {"LEASE": str(lease.id)}
    from peers.holdfast_client import leader_url

    url = await leader_url(address)
    return url, {"SESSION": await open_session(url)}


async def open_session(url: str, ttl_seconds: int = SESSION_SECONDS) -> str:
    """The id of a new session that nobody renews."""
    body = {"ttl_ms": ttl_seconds * 1000}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/sessions", json=body) as told:
        told.raise_for_status()
        return str((await told.json())["session"])


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':10}{'cycles/s':>10}{'p50 ms':>9}{'p99 ms':>9}   (of one request)"]
    lines += [
        f"{row['contender']:10}{row['per_second']:>10,.0f}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        for row in result["rows"]
    ]
    if len(result["rows"]) == 2:
        ours, theirs = (row["per_second"] for row in result["rows"])
        lines.append(f"Holdfast does {ours / theirs:.2f} x what etcd's gateway does")
    lines += [f"not found: {why}" for why in result["missing"].values()]
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--peers", help="etcd; '' for none")
    options.add_argument("--connections", type=int, default=CONNECTIONS)
    arguments = options.parse_args()
    result = asyncio.run(measure(arguments))
    answer(result, as_json=arguments.json, table=table(result))


if __name__ == "__main__":
    main()
