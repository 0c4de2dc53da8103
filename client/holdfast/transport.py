"""One HTTP exchange with one endpoint, and which endpoint is next.

Rule: this module never repeats anything. It says what came of ONE attempt: an `Answer` (the node has spoken), `NotSent` (no
connection: the request took no effect), or `NoAnswer` (it may have). What that means is decided by `requests.py`.
It knows aiohttp and the encodings, and nothing of locks and sessions.
"""

from __future__ import annotations

import json
import os
import ssl
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

import aiohttp
import msgpack

from holdfast import wire
from holdfast.attempts import NoAnswer as NoAnswer
from holdfast.attempts import NotSent as NotSent
from holdfast.errors import ClientClosed
from holdfast.streams import Streaming, open_http_stream
from holdfast.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.clock import Clock
    from holdfast.streams import Stream

Encoding = Literal["json", "msgpack"]

CONNECT_SECONDS_MAX: Final = 2.0
"""A machine that is switched off answers no connection attempt at all; the next endpoint may be well."""
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""A page of a thousand locks with long keys, owners and queues stays below; an endless body does not."""
KEEPALIVE_SECONDS: Final = 30.0
"""Below the time after which common servers and proxies close an idle connection themselves."""


class Lane(Enum):
    """A pool of connections of its own, so that a thousand waiting acquires never stand in the way of a renewal."""

    ACQUIRE = "acquire"
    CONTROL = "control"
    RENEW = "renew"
    STREAM = "stream"


CONNECTIONS_MAX: Final = {Lane.ACQUIRE: 1000, Lane.CONTROL: 64, Lane.RENEW: 8, Lane.STREAM: 64}
"""Per client. A waiting acquire occupies its connection; more acquires than this stand in line inside the client."""


@value
class Answer:
    """What a node said. `sent_at`: the instant before the request left, on the client's clock."""

    status: int
    body: Mapping[str, Any]
    sent_at: float
    endpoint: str


@value
class Request:
    """What is asked. `body` None: a GET."""

    method: Literal["GET", "POST"]
    path: str
    body: Mapping[str, Any] | None = None
    lane: Lane = Lane.CONTROL


class Transport(Protocol):
    """The port: one attempt at one endpoint."""

    async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
        """The node's answer within `seconds`; raises `NotSent` or `NoAnswer`."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A transport on which the cluster speaks unasked: that of a stream. Without it a client learns of a loss when it renews."""

    def tell(self, session: str, told: Callable[[tuple[int, ...] | None], None]) -> None:
        """From now on `told` hears what becomes of `session`: None, it has ended; else the tokens of holds that an operator ended.
        Some of it may be told twice, and none of it has to be told at all."""
        ...

    def tell_no_more(self, session: str) -> None:
        """Nobody listens for it any more."""
        ...


@runtime_checkable
class Steering(Protocol):
    """A transport that learns which endpoint is the best to ask: that of a stream."""

    def steer(self, endpoints: Endpoints) -> None:
        """From now on it may `prefer` one of these."""
        ...


class Endpoints:
    """The addresses of the cluster and the one in use. A client stays with an endpoint until that fails it, or a better one is
    known."""

    def __init__(self, addresses: Sequence[str], draw: Callable[[], float]) -> None:
        """`draw`: uniform in [0, 1); where each client begins, so that a fleet spreads."""
        self.all: Final = tuple(addresses)
        self.draw: Final = draw
        self.current: str = self.all[int(draw() * len(self.all)) % len(self.all)]
        """The endpoint to ask."""
        self.on_overloaded: Callable[[], None] = lambda: None
        """Called when an endpoint was left that will take more in a moment."""

    def __len__(self) -> int:
        return len(self.all)

    def after(self, endpoint: str) -> str:
        """The one that follows, without blaming anybody."""
        return self.all[(self.all.index(endpoint) + 1) % len(self.all)]

    def failed(self, endpoint: str) -> None:
        """Move on, unless somebody else already has."""
        if endpoint == self.current:
            self.current = self.after(endpoint)

    def overloaded(self, endpoint: str) -> None:
        """Move on for now: this one is alive, and takes no more."""
        self.failed(endpoint)
        self.on_overloaded()

    def prefer(self, endpoint: str) -> None:
        """Ask this one, until it fails."""
        self.current = endpoint


def parse_endpoints(endpoints: str | Sequence[str]) -> tuple[str, ...]:
    """`"http://a:7601, b:7602"` or a sequence of such addresses -> base URLs without a trailing slash.

    Raises `ValueError` for nothing at all, and for an address with a scheme other than http or https.
    """
    parts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    found: list[str] = []
    for part in (each.strip().rstrip("/") for each in parts):
        if not part:
            continue
        address = part if "://" in part else f"http://{part}"
        scheme, _, rest = address.partition("://")
        if scheme not in ("http", "https") or not rest:
            raise ValueError(f"an endpoint is http://host:port or https://host:port, not {part!r}")
        if address not in found:
            found.append(address)
    if not found:
        raise ValueError("no endpoint was given; for example http://127.0.0.1:7601")
    return tuple(found)


class HttpTransport:
    """The real transport. Make it, use it and close it on one event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        encoding: Encoding = "json",
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._clock = clock
        self._encoding = encoding
        self._tls = tls
        self._sessions: dict[Lane, aiohttp.ClientSession] = {}
        self._is_closed = False
        media = wire.MEDIA_JSON if encoding == "json" else wire.MEDIA_MSGPACK
        self.headers: dict[str, str] = {"Accept": media}
        """Of every request, the credential included."""
        self._content_type = {"Content-Type": media}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"

    async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
        session = self._session(request.lane)
        headers = self.headers
        data: bytes | None = None
        if request.body is not None:
            data = encode(self._encoding, request.body)
            headers = headers | self._content_type
        sent_at = self._clock.now()
        try:
            async with (
                self._clock.timeout(seconds),
                session.request(
                    request.method,
                    endpoint + request.path,
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                raw = await _read(response)
                body = decode(response.content_type, raw)
                return Answer(response.status, body, sent_at, endpoint)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(f"{endpoint} cannot be reached: {reason_of(error)}") from error
        except aiohttp.InvalidURL as error:
            raise NotSent(f"{endpoint} is not an address") from error
        except TimeoutError as error:
            raise NoAnswer(f"{endpoint} did not answer within {seconds:.3g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(f"{endpoint}: {type(error).__name__}: {error}") from error

    async def open_stream(
        self, endpoint: str, path: str, headers: Mapping[str, str], *, seconds: float
    ) -> Stream:
        """See `streams.Streaming`."""
        url, headers = endpoint + path, {**self.headers, **headers}
        return await open_http_stream(
            self._session(Lane.STREAM), self._clock, url, headers, seconds=seconds
        )

    def stream_session(self) -> aiohttp.ClientSession:
        """The pool from which long-lived connections are made."""
        return self._session(Lane.STREAM)

    async def aclose(self) -> None:
        self._is_closed = True
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, lane: Lane) -> aiohttp.ClientSession:
        if self._is_closed:
            raise ClientClosed("the client was closed")
        session = self._sessions.get(lane)
        if session is None:
            connector = aiohttp.TCPConnector(
                limit=CONNECTIONS_MAX[lane],
                keepalive_timeout=KEEPALIVE_SECONDS,
                ssl=self._tls if self._tls is not None else True,
            )
            session = self._sessions[lane] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
        return session


class LateTransport:
    """A transport that is opened when it is first used."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._made: Transport | None = None
        self._endpoints: Endpoints | None = None

    async def attempt(self, endpoint: str, request: Request, *, seconds: float) -> Answer:
        return await self._transport().attempt(endpoint, request, seconds=seconds)

    async def open_stream(
        self, endpoint: str, path: str, headers: Mapping[str, str], *, seconds: float
    ) -> Stream:
        made: object = self._transport()
        if not isinstance(made, Streaming):
            raise NotSent("this store has no streams")
        return await made.open_stream(endpoint, path, headers, seconds=seconds)

    def steer(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def _transport(self) -> Transport:
        if self._made is None:
            self._made = self._make()
            made: object = self._made
            if self._endpoints is not None and isinstance(made, Steering):
                made.steer(self._endpoints)
        return self._made

    def tell(self, session: str, told: Callable[[tuple[int, ...] | None], None]) -> None:
        made: object = self._made
        if isinstance(made, Telling):
            made.tell(session, told)

    def tell_no_more(self, session: str) -> None:
        made: object = self._made
        if isinstance(made, Telling):
            made.tell_no_more(session)

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.aclose()


def reason_of(error: Exception) -> str:
    """Why there is no connection, in the words of the operating system; aiohttp's repeat the address twice."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted: {error.certificate_error}"
    cause = getattr(error, "os_error", None)
    if isinstance(cause, ssl.SSLError):
        return f"no TLS with it: {(cause.reason or str(cause)).replace('_', ' ').lower()}"
    if not isinstance(cause, OSError):
        return str(error) or "no connection in time"
    if cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return cause.strerror or str(cause)  # a name that cannot be resolved has numbers of its own


def encode(encoding: Encoding, body: Mapping[str, Any]) -> bytes:
    """A body as it travels."""
    if encoding == "msgpack":
        packed: bytes = msgpack.packb(dict(body))
        return packed
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def decode(content_type: str, raw: bytes) -> Mapping[str, Any]:
    """The body of an answer. Raises `ValueError` for one that is not ours, such as a proxy's page."""
    if content_type in (wire.MEDIA_JSON, wire.MEDIA_PROBLEM):
        body = json.loads(raw)
    elif content_type == wire.MEDIA_MSGPACK or content_type.endswith("+msgpack"):
        body = msgpack.unpackb(raw)
    else:
        raise ValueError(f"an answer of type {content_type!r} is not a coordinator's")
    if not isinstance(body, dict):
        raise ValueError("the answer is not a mapping")  # noqa: TRY004 - one error for one meaning
    return body


async def _read(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > ANSWER_BYTES_MAX:
            raise ValueError(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
    return bytes(raw)
