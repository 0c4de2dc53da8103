"""The HTTP face of a node: the application, and the socket that it listens on.

Rule: no answer leaves here that is neither a success nor a problem, whatever happened. The access log is off,
because a path's query holds keys, and keys may be personal data; a fault is logged with where it happened, never
with what the caller sent.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import secrets
import traceback
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import web

from holdfast import wire
from holdfast.wire import Code
from holdfast_coordinator.config import HttpLimits, Rate
from holdfast_coordinator.http.backups import BackupCalls
from holdfast_coordinator.http.callers import guard
from holdfast_coordinator.http.calls import Calls
from holdfast_coordinator.http.cluster import ClusterCalls
from holdfast_coordinator.http.connections import Connection, Doors, Listener
from holdfast_coordinator.http.events import EventCalls
from holdfast_coordinator.http.history import HistoryCalls
from holdfast_coordinator.http.locks import LockCalls
from holdfast_coordinator.http.metrics import Metrics
from holdfast_coordinator.http.problems import Problem, internal, of_http_exception
from holdfast_coordinator.http.rates import Rates
from holdfast_coordinator.http.rights import CALLS
from holdfast_coordinator.http.sessions import SessionCalls
from holdfast_coordinator.http.stream import StreamCalls
from holdfast_coordinator.http.streams import Patience
from holdfast_coordinator.http.watchers import Watchers
from holdfast_coordinator.machine import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp.typedefs import Handler, Middleware

    from holdfast_coordinator.access import Access
    from holdfast_coordinator.node_types import NodePort
    from holdfast_coordinator.server_certificates import ServerCertificate

_log = structlog.get_logger("holdfast.http")

SESSION_ID_BYTES: Final = 16
"""128 random bits: nobody guesses one, and no two are ever the same."""

BACKLOG: Final = 1024
"""Connections that the kernel keeps for us while the loop is busy; a crowd of workers arrives at once after a failover."""

KEEPALIVE_SECONDS: Final = 75.0
"""How long an idle connection is kept: longer than the usual time between renewals, so that a client need not connect anew."""

SHUTDOWN_GRACE_SECONDS: Final = 1.0
"""What a request in progress gets when the node stops. Enough for any that does not wait; a waiter asks another node."""

CLIENT_CLOSED_STATUS: Final = 499
"""Nobody sees it: in the metrics it counts requests whose caller went away."""

_UNMATCHED: Final = "(none)"

METRICS: Final = web.AppKey("metrics", Metrics)


class HttpFailure(Exception):
    """The node cannot listen for HTTP. `str()` is a sentence for the person who started it."""


def new_session_id() -> str:
    return secrets.token_hex(SESSION_ID_BYTES)


def openapi_document() -> bytes:
    """The description of the API, as it is served."""
    return importlib.resources.files(__package__).joinpath("openapi.yaml").read_bytes()


def create_app(
    node: NodePort,
    *,
    machine_limits: Limits | None = None,
    http_limits: HttpLimits | None = None,
    rates: Sequence[Rate] = (),
    access: Access | None = None,
    metrics: Metrics | None = None,
    new_session: Callable[[], str] = new_session_id,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> web.Application:
    """The application that answers for `node`. `machine_limits` must be those that the node's machine was made with.

    Run it with `handler_cancellation=True` (as `start_http` does), or the node does not learn that a waiting caller has gone.
    """
    limits = http_limits or HttpLimits()
    metrics = metrics or Metrics()
    metrics.watch(node)
    calls = Calls(node, metrics, machine_limits or Limits(), limits, new_session)
    watchers = Watchers(node)
    metrics.watch_watchers(lambda: watchers.count)
    app = web.Application(
        middlewares=[_outermost(metrics, limits.requests_in_flight_max), guard(access)],
        client_max_size=limits.body_bytes_max,
    )
    app[METRICS] = metrics
    limited = Rates(rates, metrics.now)
    streams = StreamCalls(calls, limited, watchers, patience.slow_reader_seconds)
    metrics.watch_streams(lambda: len(streams))
    for each in (
        SessionCalls(calls),
        LockCalls(calls, limited),
        streams,
        HistoryCalls(calls, patience.slow_reader_seconds),
        EventCalls(calls, watchers, patience),
        ClusterCalls(calls, openapi_document()),
        BackupCalls(calls, patience.slow_reader_seconds),
    ):
        app.add_routes(each.routes())
    _require_rights(app)

    async def stop_watching(app: web.Application) -> None:
        watchers.stop()
        await streams.stop()

    app.on_shutdown.append(stop_watching)
    return app


def _require_rights(app: web.Application) -> None:
    """A route that nobody has thought about is not served."""
    for route in app.router.routes():
        method = "GET" if route.method == "HEAD" else route.method
        if route.resource is None or f"{method} {route.resource.canonical}" not in CALLS:
            raise RuntimeError(f"{route!r} has no entry in rights.CALLS")


def _outermost(metrics: Metrics, requests_in_flight_max: int) -> Middleware:
    """Counts, bounds, and turns whatever was raised into a problem."""
    in_flight = 0

    @web.middleware
    async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal in_flight
        started = metrics.now()
        status = CLIENT_CLOSED_STATUS
        in_flight += 1
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.request_began()
        try:
            if in_flight > requests_in_flight_max:
                raise Problem(Code.OVERLOADED, "this node has too many requests in progress")
            response = await handler(request)
            status = response.status
        except asyncio.CancelledError:
            raise  # the caller has gone; there is nobody to answer
        except Exception as error:
            if isinstance(error, ConnectionError) and _has_gone(request):
                raise
            if request.writer.output_size > 0:
                # A stream has begun: a second answer would be taken for a part of it. The connection ends in the middle.
                _log_fault(error, route=_route(request), method=request.method)
                raise ConnectionError("the answer has begun; a problem cannot be sent") from error
            problem = _problem_of(error, request)
            metrics.count_rejected(problem.code.value, problem.limit)
            status = problem.status
            return problem.response()
        else:
            return response
        finally:
            in_flight -= 1
            if isinstance(connection, Connection):
                connection.request_ended()
            metrics.observe_request(
                _route(request), request.method, status, metrics.now() - started
            )

    return outermost


def _has_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return _UNMATCHED if resource is None else resource.canonical


def _problem_of(error: Exception, request: web.Request) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, web.HTTPException):
        return of_http_exception(error)
    if isinstance(error, web.RequestPayloadError):
        return Problem(Code.BAD_REQUEST, "body: it is not transferred correctly", field="body")
    _log_fault(error, route=_route(request), method=request.method)
    return internal()


def _log_fault(error: BaseException | None, **where: Any) -> None:
    # An exception's text may quote what the caller sent; its type and the lines that it passed do not.
    lines = traceback.format_tb(error.__traceback__) if error is not None else []
    _log.error("request_failed", error=type(error).__name__, traceback="".join(lines), **where)


class _ProblemConnection(Connection):
    """A connection whose unreadable requests get a problem too: those never reach the application."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; a second one cannot be sent") from exc
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log_fault(exc, route=_UNMATCHED, method="other")
            response = internal().response()
        else:
            # The parser's message quotes the line that it could not read, and that may hold a key.
            response = Problem(Code.BAD_REQUEST, "this is not a valid HTTP/1.1 request").response()
        response.force_close()
        return response


class HttpServer:
    """A listening node. `close()` before the node stops: waiting callers are cancelled, and the node can still withdraw them."""

    def __init__(
        self,
        runner: web.AppRunner,
        listener: Listener,
        metrics: Metrics,
        host: str,
        port: int,
    ) -> None:
        self._runner = runner
        self._listener = listener
        self.metrics = metrics
        self.host = host
        self.port = port

    async def close(self) -> None:
        """Stop listening, give requests in progress `shutdown_grace_seconds`, cancel the rest. May be called again."""
        self._listener.close()
        await self._runner.cleanup()


async def start_http(
    node: NodePort,
    host: str,
    port: int,
    *,
    machine_limits: Limits | None = None,
    http_limits: HttpLimits | None = None,
    rates: Sequence[Rate] = (),
    access: Access | None = None,
    metrics: Metrics | None = None,
    new_session: Callable[[], str] = new_session_id,
    patience: Patience = Patience(),  # noqa: B008 - frozen
    certificate: ServerCertificate | None = None,
    shutdown_grace_seconds: float = SHUTDOWN_GRACE_SECONDS,
) -> HttpServer:
    """Listen on `host`:`port` (0: any free port; see `HttpServer.port`) and answer for `node`; over TLS with a `certificate`.

    Raises `HttpFailure` with a sentence if the port is in use or the address is not this machine's.
    """
    app = create_app(
        node,
        machine_limits=machine_limits,
        http_limits=http_limits,
        rates=rates,
        access=access,
        metrics=metrics,
        new_session=new_session,
        patience=patience,
    )
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=shutdown_grace_seconds,
    )
    await runner.setup()
    server = runner.server
    if server is None:
        raise RuntimeError("the runner has been set up and has no server")
    loop = asyncio.get_running_loop()
    limits, counts = http_limits or HttpLimits(), app[METRICS]
    doors = Doors(
        limits.connections_max, limits.connections_per_peer_max, counts.count_connection_ended
    )
    counts.watch_connections(lambda: doors.count)

    def connection() -> Connection:
        made = _ProblemConnection(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # documented: None turns it off
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_line_size=limits.header_bytes_max,
            max_field_size=limits.header_bytes_max,
            max_headers=limits.headers_max,
            auto_decompress=False,
        )
        made.head_seconds_max = limits.head_read_ms_max / wire.MS_PER_SECOND
        return made

    listener = Listener(doors, connection, certificate)
    try:
        await listener.open(host, port, BACKLOG)
    except OSError as error:
        await runner.cleanup()
        reason = error.strerror or str(error)
        raise HttpFailure(f"cannot listen for HTTP on {host}:{port}: {reason}") from error
    return HttpServer(runner, listener, counts, host, listener.port)
