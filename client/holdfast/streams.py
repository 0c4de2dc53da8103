"""An answer that comes piece by piece and has no end in sight: events, an export.

Rule: as in `transport.py`, nothing is repeated here. What comes of ONE stream is said: its status, its pieces, `NoAnswer` when
it breaks or stays silent. Nothing is buffered but what the connection itself holds, which aiohttp bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import aiohttp

from holdfast.attempts import NoAnswer, NotSent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.clock import Clock


class Stream(Protocol):
    """One stream that has begun."""

    status: int
    content_type: str

    async def read(self, seconds: float) -> bytes:
        """The next piece; empty at the end. Raises `NoAnswer`: it broke, or nothing came for `seconds`. A cancelled read loses
        nothing."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A transport that can do it: that of a cluster. Other stores have no events."""

    async def open_stream(
        self, endpoint: str, path: str, headers: Mapping[str, str], *, seconds: float
    ) -> Stream:
        """GET `path`. Raises `NotSent`, `NoAnswer` if it has not begun within `seconds`."""
        ...


class HttpStream:
    def __init__(self, response: aiohttp.ClientResponse, clock: Clock) -> None:
        self.status: int = response.status
        self.content_type: str = response.content_type
        self._response = response
        self._clock = clock

    async def read(self, seconds: float) -> bytes:
        try:
            async with self._clock.timeout(seconds):
                return await self._response.content.readany()
        except TimeoutError as error:
            raise NoAnswer(f"nothing came for {seconds:.3g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(f"the stream broke: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._response.close()


async def open_http_stream(
    session: aiohttp.ClientSession,
    clock: Clock,
    url: str,
    headers: Mapping[str, str],
    *,
    seconds: float,
) -> HttpStream:
    """See `Streaming.open_stream`."""
    try:
        async with clock.timeout(seconds):
            response = await session.get(url, headers=headers, allow_redirects=False)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotSent(f"{url} cannot be reached") from error
    except TimeoutError as error:
        raise NoAnswer(f"{url} did not answer within {seconds:.3g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoAnswer(f"{url}: {type(error).__name__}: {error}") from error
    return HttpStream(response, clock)
