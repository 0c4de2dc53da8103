"""ZooKeeper through kazoo, the client that people use. It has a thread of its own, where its callbacks run: the cycles of the
workers are chained there, which is the fastest way of using it. A contended key: its own lock recipe, with a thread a worker."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient
from measuring import Tape

from peers.zookeeper_wire import leader_port

logging.getLogger("kazoo").setLevel(logging.CRITICAL)
END_SECONDS_MAX = 30.0


async def drive(address: list[int], tape: Tape, *, contended: bool) -> None:
    client = KazooClient(hosts=f"127.0.0.1:{await leader_port(address)}", timeout=10.0)
    work = _contended if contended else _own_keys
    await asyncio.to_thread(client.start, 15)
    try:
        await asyncio.to_thread(work, client, tape)
    finally:
        await asyncio.to_thread(client.stop)
        client.close()


def _own_keys(client: Any, tape: Tape) -> None:
    client.ensure_path("/cycles-kazoo")
    ended = [threading.Event() for _ in range(tape.workers)]
    failures: list[BaseException] = []
    for number in range(tape.workers):
        _chain(client, f"/cycles-kazoo/{number}", number, tape, ended[number].set, failures)
    while not tape.stopping and not failures:
        time.sleep(0.01)
    for each in ended:
        if not failures:
            each.wait(END_SECONDS_MAX)
    if failures:
        raise failures[0]


def _chain(
    client: Any,
    path: str,
    worker: int,
    tape: Tape,
    end: Callable[[], object],
    failures: list[BaseException],
) -> None:
    """The cycles of one worker, each callback beginning the next step."""
    now = time.perf_counter
    asked = granted = 0.0

    def begin() -> None:
        nonlocal asked
        asked = now()
        client.create_async(path, b"owner", ephemeral=True).rawlink(created)

    def created(result: Any) -> None:
        nonlocal granted
        if not result.successful():
            failures.append(result.exception)
            return
        granted = now()
        client.delete_async(path).rawlink(deleted)

    def deleted(result: Any) -> None:
        if not result.successful():
            failures.append(result.exception)
            return
        tape.note(worker, asked, granted, now())
        if tape.stopping:
            end()
        else:
            begin()

    begin()


def _contended(client: Any, tape: Tape) -> None:
    def work(number: int) -> None:
        lock, now = client.Lock("/contended-kazoo", f"worker {number}"), time.perf_counter
        while not tape.stopping:
            asked = now()
            lock.acquire()
            granted = now()
            lock.release()
            tape.note(number, asked, granted, now())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(tape.workers)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
