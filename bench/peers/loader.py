"""The process that makes the load of one contender: a line of JSON in, a line of JSON out.

    {"do": "cycles", "workers": 64, "seconds": 4, "warm_up": 1, "contended": false, "servers": [pid, ...]}
    {"do": "idle", "sessions": 10000, "ttl_seconds": 10, "seconds": 30, "servers": [pid, ...]}

Rule: a process of its own for each contender, kept for the whole run, so that no client library pays for another's threads and
garbage; it does nothing between two orders. Started by `field.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import uvloop
from measuring import Tape, Usage

from peers import contender
from peers.processes import free_files

IDLE_SETTLE_SECONDS = 5.0
"""After the sessions were opened: the servers are still busy with that."""


async def cycles(drive: Any, address: Any, order: dict[str, Any]) -> dict[str, Any]:
    """A warm-up and a window of worker loops."""
    tape = Tape(order["workers"])
    load = asyncio.ensure_future(drive(address, tape, contended=order["contended"]))
    try:
        while not tape.cycles and not load.done():  # noqa: ASYNC110 - a thread may write the tape
            await asyncio.sleep(0.01)
        await asyncio.wait([load], timeout=order["warm_up"])
        tape.cut()
        usage = Usage(order["servers"])
        began = time.perf_counter()
        await asyncio.wait([load], timeout=order["seconds"])
        taken, seconds = tape.cut(), time.perf_counter() - began
        used = usage.end()
    finally:
        tape.stopping = True
    await load
    return {"workers": order["workers"], **taken.figures(seconds), **used}


async def idle(keep: Any, address: Any, order: dict[str, Any]) -> dict[str, Any]:
    """The CPU of the servers while so many sessions do nothing but stay alive."""
    ready = asyncio.Event()
    began = time.perf_counter()
    keeping = asyncio.ensure_future(
        keep(address, order["sessions"], order["ttl_seconds"], ready.set)
    )
    opened = asyncio.ensure_future(ready.wait())
    await asyncio.wait([keeping, opened], return_when=asyncio.FIRST_COMPLETED)
    opened_after = time.perf_counter() - began
    opened.cancel()
    await asyncio.wait([keeping], timeout=IDLE_SETTLE_SECONDS)
    usage = Usage(order["servers"])
    await asyncio.wait([keeping], timeout=order["seconds"])
    used = usage.end()
    if keeping.done():
        await keeping
        raise RuntimeError("the sessions were not kept")
    keeping.cancel()
    await asyncio.wait([keeping])
    return {"sessions": order["sessions"], "opened_after_seconds": round(opened_after, 1), **used}


async def main(name: str, address: Any) -> None:
    free_files()
    module = importlib.import_module(f"peers.{contender(name).client}")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        try:
            if order["do"] == "cycles":
                answer = await cycles(module.drive, address, order)
            else:
                answer = await idle(module.idle, address, order)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
            answer = {"failed": f"{type(error).__name__}: {_innermost(error)}"}
        print(json.dumps(answer), flush=True)


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], json.loads(sys.argv[2])))
