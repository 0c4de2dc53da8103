"""What the Python client itself costs: CPU for each lock cycle, against a peer that answers at once.

    python bench/client_cost.py [--workers 1,64,256] [--cycles 20000] [--rounds 3] [--loop uvloop|asyncio]

Rule: the client's whole path is measured, from `async with client.lock(key)` to the socket and back; the peer is another process,
which speaks the stream and decides nothing, so that no cluster is needed and nothing of it is counted. CPU time moves less than
the rate when others use the machine; for instructions run it as `perf stat -i -e instructions:u python bench/client_cost.py ...`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING, Any

import msgpack
import uvloop
from aiohttp import WSMsgType, web

import holdfast
from holdfast import stream_wire as numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

TTL_MS = 600_000
WARM_UP_CYCLES = 2_000
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
HELLO = {
    "version": numbers.STREAM_VERSION,
    "node": "peer",
    "window": numbers.WINDOW,
    "frame_operations_max": numbers.FRAME_OPERATIONS_MAX,
    "frame_bytes_max": numbers.FRAME_BYTES_MAX,
}


# -- the peer


async def speak(request: web.Request) -> web.WebSocketResponse:
    """Every lock is free, and every answer leaves with those of its frame."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    await socket.send_bytes(msgpack.packb([[numbers.HELLO, 0, HELLO]]))
    tokens = itertools.count(1)
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            frame = msgpack.unpackb(message.data)
            await socket.send_bytes(msgpack.packb([answer_to(entry, tokens) for entry in frame]))
    return socket


def answer_to(entry: list[Any], tokens: Iterator[int]) -> list[Any]:
    kind, call = entry[:2]
    if kind == numbers.ACQUIRE:
        token = next(tokens)
        return [kind, call, token, TTL_MS, token, 0, [[token, "released"]]]
    if kind == numbers.RELEASE:
        return [kind, call]
    return [kind, call, TTL_MS, TTL_MS] if kind == numbers.OPEN else [kind, call, []]


async def serve(ready: Connection) -> None:
    app = web.Application()
    app.router.add_get(numbers.STREAM_PATH, speak)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ready.send(runner.addresses[0][1])
    # Until the other end is closed, by whatever ends this program: nothing is ever sent on it.
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(ready.fileno(), over.set)
    await over.wait()
    await runner.cleanup()


def be_peer(ready: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(ready))


@contextlib.contextmanager
def peer() -> Iterator[str]:
    """Its address."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=be_peer, args=(there,), daemon=True
    )
    process.start()
    there.close()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        here.close()
        process.join()


# -- the client


async def cost_us(address: str, workers: int, cycles: int) -> float:
    """CPU of this process for one cycle."""

    async def work(client: holdfast.AsyncClient, key: str, count: int) -> None:
        for _ in range(count):
            async with client.lock(key):
                pass

    async def run(client: holdfast.AsyncClient, count: int) -> None:
        each = max(1, count // workers)
        await asyncio.gather(*(work(client, f"bench/{n}", each) for n in range(workers)))

    async with holdfast.connect(address, ttl=TTL_MS / 1000) as client:
        await run(client, WARM_UP_CYCLES)
        before = time.process_time()
        await run(client, cycles)
        return (time.process_time() - before) / (max(1, cycles // workers) * workers) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workers", default="1,64,256", help="how many at a time")
    parser.add_argument("--cycles", type=int, default=20_000, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", choices=tuple(LOOPS), default="uvloop")
    asked = parser.parse_args()
    with peer() as address, asyncio.Runner(loop_factory=LOOPS[asked.loop]) as runner:
        for workers in map(int, asked.workers.split(",")):
            costs = [
                runner.run(cost_us(address, workers, asked.cycles)) for _ in range(asked.rounds)
            ]
            least, middle = min(costs), statistics.median(costs)
            print(f"{workers:>5} workers  {middle:6.1f} us a cycle (least {least:.1f})", flush=True)


if __name__ == "__main__":
    main()
