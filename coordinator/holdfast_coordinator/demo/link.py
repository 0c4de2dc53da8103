"""What a worker and the director say to each other: one JSON object a line, over a socket pair that the worker inherits.

The rule: the worker asks or reports, the director answers. There is no address and no port, so nobody else can join, and the end of
either process is the end of the stream for the other.

    director -> worker  {"settings": {...}}                                             once, at the start
    worker -> director  {"op": "take"}                             <- {"delivery": 7, "message": {...}}, or {"end": true}
                        {"op": "ack" | "nack", "delivery": 7, ...}  <- {"ok": true}; false: that delivery had ended
                        {"op": "event", "kind": ...}               nothing
    gate: a second pair, which the worker's writing THREAD uses, blocking: "I am about to write" <- "go on"

The gate is where the director stops a worker at the worst moment: after the lock, before the write, in a thread that no
cancellation reaches.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from holdfast_coordinator.demo.messages import Message

if TYPE_CHECKING:
    import asyncio
    import socket

LINE_BYTES_MAX: Final = 16 * 1024
"""A message of at most 8 KiB, escaped, with a little around it."""


@dataclass(frozen=True)
class WorkerSettings:
    """All that a worker process is told. Seconds are floats."""

    worker: str
    endpoints: str
    books: str
    without_fence: bool
    ttl_seconds: float
    provider_seconds: float
    seed: int


class LinkClosed(Exception):
    """The other process has gone."""


async def receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Return the next object. Raises `LinkClosed`."""
    try:
        line = await reader.readline()
    except (ConnectionError, ValueError) as error:
        raise LinkClosed(str(error)) from None
    if not line.endswith(b"\n"):
        raise LinkClosed("the stream has ended")
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise LinkClosed("not an object")
    return answer


async def send(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """Send one object. Raises `LinkClosed`."""
    try:
        writer.write(json.dumps(body).encode() + b"\n")
        await writer.drain()
    except ConnectionError as error:
        raise LinkClosed(str(error)) from None


def pass_gate(gate: socket.socket, delivery: int, fence: int) -> None:
    """Say that the write comes next, and block until the director lets it. Raises `LinkClosed`."""
    try:
        gate.sendall(json.dumps({"delivery": delivery, "fence": fence}).encode() + b"\n")
        answer = gate.recv(LINE_BYTES_MAX)
    except ConnectionError as error:
        raise LinkClosed(str(error)) from None
    if not answer:
        raise LinkClosed("the stream has ended")


def message_to_json(message: Message) -> dict[str, Any]:
    return asdict(message)


def message_from_json(body: dict[str, Any]) -> Message:
    return Message(**body)
