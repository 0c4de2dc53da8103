"""wrk, the load generator: one run of a script of ours against one address.

Rule: wrk costs little itself, so what it shows is what the server can do for clients that are not Python. It is not installed by us
(`apt-get install wrk`).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
from typing import Any

from measuring import FOLDER, Usage

HOW_TO_INSTALL = "wrk: apt-get install wrk"


def is_there() -> bool:
    return shutil.which("wrk") is not None


async def run(
    url: str,
    script: str,
    *,
    connections: int,
    seconds: float,
    servers: list[int],
    environment: dict[str, str],
) -> dict[str, Any]:
    """Successes and failures as the script counts them, latency percentiles in milliseconds, and the CPU meanwhile."""
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["--script", str(FOLDER / script), url]
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    usage, before = Usage(servers, []), _ended_seconds()
    async with asyncio.timeout(seconds + 60):
        told = (await process.communicate())[0].decode()
    if "JSON " not in told:
        raise RuntimeError(f"wrk said: {told[-500:]}")
    found = json.loads(told.partition("JSON ")[2].splitlines()[0])
    used = usage.end()
    own = (_ended_seconds() - before) / used["seconds"]
    return {
        "ok": found["ok"],
        "failed": found["failed"],
        "errors": found["errors"],
        "per_second": round(found["ok"] / found["us"] * 1e6, 1),
        "p50_ms": found["p50"] / 1000,
        "p99_ms": found["p99"] / 1000,
        "cpu_server": used["cpu_server"],
        "cpu_client": round(own, 3),
        "cpu_other": round(max(0.0, used["cpu_other"] - own), 3),
    }


def _ended_seconds() -> float:
    """CPU time of the processes that this one started and that have ended: wrk is gone when it is asked for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
