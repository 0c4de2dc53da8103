"""The cluster's trail as a stream of bytes, from whichever node gives it.

Rule: one node's file is one file. Before the first byte another node may be asked; after it a break is told, since two halves
from two nodes need not fit together. Whether a file is whole is for `verifying.py` to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast import wire
from holdfast.attempts import NoAnswer, NotSent
from holdfast.errors import HoldfastError, Unreachable
from holdfast.requests import ATTEMPT_SECONDS, refusal
from holdfast.retry import Failure
from holdfast.watch import problem_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.streams import Stream
    from holdfast.watch import Source

PIECE_SECONDS: Final = 15.0
"""A node that sends a file and is silent for so long is frozen."""


async def export(source: Source, after: int) -> AsyncIterator[bytes]:
    """See `AsyncClient.export_history`."""
    stream = await _begin(source, f"{wire.API_PREFIX}/history/export?after={after}")
    try:
        while piece := await stream.read(PIECE_SECONDS):
            yield piece
    except NoAnswer as error:
        raise Unreachable(f"the export broke off: {error}") from error
    finally:
        stream.close()


async def _begin(source: Source, path: str) -> Stream:
    give_up_at = source.clock.now() + source.patience
    attempts = 0
    while True:
        endpoint = source.endpoints.current
        found = await _attempt(source, endpoint, path)
        if not isinstance(found, HoldfastError):
            return found
        source.endpoints.failed(endpoint)
        attempts += 1
        if not await source.pause(Failure.UNKNOWN, attempts, give_up_at):
            raise found


async def _attempt(source: Source, endpoint: str, path: str) -> Stream | HoldfastError:
    headers = {"Accept": "*/*"}
    try:
        stream = await source.transport.open_stream(
            endpoint, path, headers, seconds=ATTEMPT_SECONDS
        )
        if stream.status == 200:
            return stream
        try:
            answer = await problem_of(stream, endpoint, source.clock.now())
        finally:
            stream.close()
    except (NotSent, NoAnswer) as error:
        return Unreachable(str(error))
    if answer.status >= 429:
        return refusal(answer)
    raise refusal(answer)
