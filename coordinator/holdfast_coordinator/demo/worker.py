"""One worker of the demo, in a process of its own: take a message, lock, raise the floor, call the provider, capture, complete,
acknowledge. An order that is done already is answered by the cluster, and not worked again.

The rule: this is what a real worker looks like. It acknowledges what is done or refused for good, and gives everything else back
to the queue: a held lock, a lost lock, a cluster without a leader. It does not know that somebody may stop it at its gate.

The write runs in a thread, as every blocking driver's does. When the lock is lost the client cancels the body, but a thread that is
already in its write goes on: that is the write which only the fence can refuse.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

import holdfast
from holdfast.errors import AlreadyDone, HoldfastError, LockLost, NotAcquired
from holdfast.fencing import Stale
from holdfast_coordinator.demo import link
from holdfast_coordinator.demo.books import LEDGER_ACTIONS, FencedBooks, NaiveBooks
from holdfast_ledger import Duplicate, NotCaptured, RefundRefused, idempotency_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast import AsyncClient
    from holdfast_coordinator.demo.books import Books
    from holdfast_coordinator.demo.messages import Message

DONE_SECONDS = 24 * 3600.0
"""For as long as a queue may deliver a message again."""

PROVIDER_SPREAD = (0.3, 1.7)
"""A provider's answer takes between these multiples of its mean."""

_TERMS = ("customer", "amount", "currency")
"""What two messages of one order ought to agree about."""


class Worker:
    """Works until the queue says that it has ended."""

    def __init__(
        self,
        settings: link.WorkerSettings,
        client: AsyncClient,
        books: Books,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: Callable[[int, int], None],
    ) -> None:
        """`gate(delivery, fence)` is called in the writing thread right before the write, and may block."""
        self._settings = settings
        self._client = client
        self._books = books
        self._reader = reader
        self._writer = writer
        self._gate = gate
        self._rng = random.Random(settings.seed)  # noqa: S311 - the pace of a pretended provider  # nosec B311

    async def run(self) -> None:
        """Work. Raises `link.LinkClosed` when the director has gone."""
        while True:
            task = await self._ask({"op": "take"})
            if task.get("end"):
                return
            message = link.message_from_json(task["message"])
            await self._ask(await self._deliver(task["delivery"], message))

    async def _deliver(self, delivery: int, message: Message) -> dict[str, Any]:
        """Work on one delivery; return what to tell the queue about it."""
        write: asyncio.Task[None] | None = None
        ack, nack = {"op": "ack", "delivery": delivery}, {"op": "nack", "delivery": delivery}
        fate = nack | {"reason": "lost"}
        try:
            async with self._client.lock(message.order_key, wait=0) as order:
                async with self._client.lock(message.lock_key, wait=0) as grant:
                    fence = grant.fence_for()
                    await self._report("granted", delivery, fence=fence)
                    done = await asyncio.to_thread(self._books.begin, message, fence)
                    if done:
                        fate = ack | {"outcome": "duplicate"}
                    else:
                        await self._call_provider(message)
                        write = asyncio.create_task(
                            asyncio.to_thread(self._write, delivery, message, fence)
                        )
                        await asyncio.shield(write)
                if write is not None:
                    await order.complete(_result(message), retain=DONE_SECONDS)
        except AlreadyDone as known:
            return ack | {"outcome": "already_done", "differences": _differences(message, known)}
        except NotAcquired:
            return nack | {"reason": "held"}
        except Stale as stale:
            if write is None:  # a later holder was here before this one had even begun
                await self._report("stale", delivery, fence=stale.fence, highest=stale.highest)
                return nack | {"reason": "stale"}
        except LockLost as lost:
            await self._report("lost", delivery, fence=lost.token)
        except (Duplicate, NotCaptured, RefundRefused, SQLAlchemyError):
            pass  # the outcome of `write`: read below, where a write that nobody awaited any more is read too
        except HoldfastError as error:
            fate = nack | {"reason": "cluster", "detail": type(error).__name__}
        if write is None:
            return fate
        return await self._fate_of(write, delivery, ack, nack)

    async def _fate_of(
        self, write: asyncio.Task[None], delivery: int, ack: dict[str, Any], nack: dict[str, Any]
    ) -> dict[str, Any]:
        """The write decides, not the lock: what is in the books is done, even if the lock was lost a moment later."""
        try:
            await write
        except Stale as stale:
            await self._report("stale", delivery, fence=stale.fence, highest=stale.highest)
            return nack | {"reason": "stale"}
        except Duplicate as duplicate:
            return ack | {"outcome": "duplicate", "differences": list(duplicate.differences)}
        except NotCaptured as error:
            return nack | {"reason": "not_captured", "detail": str(error)}
        except RefundRefused as error:
            return nack | {"reason": "refused", "detail": str(error)}
        except SQLAlchemyError as error:
            return nack | {"reason": "books", "detail": type(error).__name__}
        return ack | {"outcome": "captured"}

    def _write(self, delivery: int, message: Message, fence: int) -> None:
        self._gate(delivery, fence)
        self._books.write(message, fence)

    async def _call_provider(self, message: Message) -> None:
        """Pretend to call the provider, who ignores fences and therefore gets the same key from every holder."""
        _sent = idempotency_key(message.payment, LEDGER_ACTIONS[message.action])
        await asyncio.sleep(self._settings.provider_seconds * self._rng.uniform(*PROVIDER_SPREAD))

    async def _report(self, kind: str, delivery: int, **more: int) -> None:
        await link.send(self._writer, {"op": "event", "kind": kind, "delivery": delivery} | more)

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        await link.send(self._writer, body)
        return await link.receive(self._reader)


def _result(message: Message) -> str:
    """What the cluster is told to remember of an order."""
    return json.dumps({name: getattr(message, name) for name in _TERMS})


def _differences(message: Message, done: AlreadyDone) -> list[str]:
    """In what this message differs from the one that was worked."""
    known = json.loads(done.result)
    return [name for name in _TERMS if known.get(name) != getattr(message, name)]


async def work(link_socket: socket.socket, gate_socket: socket.socket) -> None:
    """Run one worker over the two inherited sockets."""
    reader, writer = await asyncio.open_connection(sock=link_socket, limit=link.LINE_BYTES_MAX)
    settings = link.WorkerSettings(**(await link.receive(reader))["settings"])
    path = Path(settings.books)
    books: Books = NaiveBooks(path) if settings.without_fence else FencedBooks(path)

    def gate(delivery: int, fence: int) -> None:
        link.pass_gate(gate_socket, delivery, fence)

    try:
        async with holdfast.connect(
            settings.endpoints, ttl=settings.ttl_seconds, owner=settings.worker
        ) as client:
            await Worker(settings, client, books, reader, writer, gate).run()
    finally:
        books.close()
        writer.close()


def main() -> int:
    """Entry of the process: `python -m holdfast_coordinator.demo.worker LINK_FD GATE_FD`."""
    link_socket, gate_socket = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    try:
        asyncio.run(work(link_socket, gate_socket))
    except link.LinkClosed:
        return 1  # the director has gone, and this process has nobody left to work for
    return 0


if __name__ == "__main__":
    sys.exit(main())
