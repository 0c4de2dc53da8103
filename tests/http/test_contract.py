"""openapi.yaml is what the server does: valid, complete, and held against the running server by generated requests."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi.checks import positive_data_acceptance

from holdfast import wire
from holdfast_coordinator.http import bodies, create_app, openapi_document, start_http
from holdfast_coordinator.machine import ClosedBy, Ended, Limits, Record
from holdfast_coordinator.machine.operations import Mode, OnUnclean
from holdfast_coordinator.machine.trail import Kind

from .openapi import DOCUMENT, SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES_MAX = 6
"""For each call and way of generating. The edges of every bound come first, so that few are needed."""


def test_the_document_is_valid_openapi_3_1():
    OpenAPIV31SpecValidator(DOCUMENT).validate()


async def test_the_document_is_served_as_it_stands(caller):
    served = await caller.get("/v1/openapi.yaml")
    assert served.headers["Content-Type"].startswith("application/yaml")
    assert served.raw == openapi_document()


async def test_every_route_is_described_and_every_description_is_a_route(node):
    """In both directions, so that neither can be forgotten."""
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in create_app(node).router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    described = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}
    assert routes == described


@pytest.mark.parametrize(
    ("schema", "struct"),
    [
        ("OpenRequest", bodies.OpenBody),
        ("SessionRequest", bodies.SessionBody),
        ("AcquireRequest", bodies.AcquireBody),
        ("ReleaseRequest", bodies.ReleaseBody),
        ("CompleteRequest", bodies.CompleteBody),
        ("CheckpointRequest", bodies.CheckpointBody),
        ("ForceReleaseRequest", bodies.ForceReleaseBody),
        ("ResolveRequest", bodies.ResolveBody),
        ("ExplainRequest", bodies.ExplainBody),
        ("ReadClosedRequest", bodies.ClosedReadBody),
        ("ReadHistoryRequest", bodies.HistoryBody),
        ("CancelRequest", bodies.CancelBody),
        ("ReadRequest", bodies.ReadBody),
        ("ReplaceRequest", bodies.ReplaceBody),
    ],
)
def test_every_field_of_a_body_is_described(schema, struct):
    """And nothing else is."""
    assert set(SCHEMAS[schema]["properties"]) == set(struct.__struct_fields__)
    required = {field.name for field in msgspec.structs.fields(struct) if field.required}
    assert set(SCHEMAS[schema].get("required", ())) == required
    assert SCHEMAS[schema]["additionalProperties"] is False


def test_the_bounds_described_are_the_defaults():
    """A number that stands in two places is held together here."""
    limits = Limits()
    assert SCHEMAS["Ttl"]["minimum"] == limits.ttl_ms_min
    assert SCHEMAS["Ttl"]["maximum"] == limits.ttl_ms_max
    assert SCHEMAS["AcquireRequest"]["properties"]["wait_ms"]["maximum"] == limits.wait_ms_max
    keys = SCHEMAS["AcquireRequest"]["properties"]["keys"]
    assert keys["maxItems"] == limits.keys_per_acquire_max
    assert SCHEMAS["Key"]["maxLength"] == wire.KEY_BYTES_MAX
    assert SCHEMAS["Owner"]["maxLength"] == wire.OWNER_BYTES_MAX
    assert SCHEMAS["Context"]["maxLength"] == wire.CONTEXT_BYTES_MAX
    assert SCHEMAS["SessionId"]["minLength"] == wire.SESSION_ID_CHARS_MIN
    assert SCHEMAS["SessionId"]["maxLength"] == wire.SESSION_ID_CHARS_MAX
    assert SCHEMAS["RequestId"]["maxLength"] == wire.REQUEST_ID_CHARS_MAX
    assert SCHEMAS["Permits"]["maximum"] == wire.LIMIT_MAX
    assert SCHEMAS["Delay"]["maximum"] == wire.DELAY_MS_MAX
    assert SCHEMAS["Value"]["maxLength"] == wire.RESULT_BYTES_MAX == wire.CHECKPOINT_BYTES_MAX
    assert SCHEMAS["Reason"]["maxLength"] == wire.REASON_BYTES_MAX
    assert SCHEMAS["Operator"]["maxLength"] == wire.OPERATOR_BYTES_MAX
    retain = SCHEMAS["CompleteRequest"]["properties"]["retain_ms"]
    assert (retain["minimum"], retain["maximum"]) == (wire.RETAIN_MS_MIN, wire.RETAIN_MS_MAX)
    for name in (
        "Key", "Prefix", "SessionId", "Ttl", "Owner", "Context", "RequestId", "Permits", "Delay", "Token", "Count",
    ):  # fmt: skip
        optional = SCHEMAS[f"Optional{name}"]
        for bound in ("minLength", "maxLength", "minimum", "maximum", "pattern"):
            assert optional.get(bound) == SCHEMAS[name].get(bound), (name, bound)
    assert SCHEMAS["Token"]["maximum"] == wire.INTEGER_MAX
    assert set(SCHEMAS["Problem"]["properties"]["code"]["enum"]) == set(wire.Code)


def test_the_vocabulary_described_is_the_machines():
    """A kind, an end or a reason that is added there must be told here."""
    assert set(SCHEMAS["Ended"]["enum"]) == set(get_args(Ended))
    assert set(SCHEMAS["ClosedBy"]["enum"]) == set(get_args(ClosedBy))
    assert set(SCHEMAS["Mode"]["enum"]) == set(get_args(Mode))
    assert set(SCHEMAS["OnUnclean"]["enum"]) == set(get_args(OnUnclean))
    assert set(SCHEMAS["Record"]["properties"]["kind"]["enum"]) == set(get_args(Kind))
    assert list(SCHEMAS["Record"]["properties"]) == [
        *("revision", "kind", "cluster_ms", "wall_ms", "token", "keys"),
        *Record._fields[6:],
    ]
    assert set(SCHEMAS["Event"]["properties"]["event"]["enum"]) == {*get_args(Kind), "at", "gone"}


# -- generated requests ----------------------------------------------------------------------------------------------------


@schemathesis.serializer(wire.MEDIA_MSGPACK)
def _pack(context: Any, value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, OverflowError, UnicodeEncodeError):
        # What msgpack cannot carry is sent as something that is no msgpack: as negative as it was meant to be.
        return b"\xc1"


@schemathesis.deserializer(wire.MEDIA_MSGPACK)
def _unpack(context: Any, response: Any) -> Any:
    return msgspec.msgpack.decode(response.content)


@pytest.fixture(scope="module")
def base_url(make_node: Callable[..., Any]) -> Iterator[str]:
    """A server on its own thread, because the generated requests are sent by a blocking client."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        server = await start_http(make_node(waits_end_at_once=True), "127.0.0.1", 0)
        started.set_result((f"http://127.0.0.1:{server.port}", asyncio.get_running_loop(), stop))
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, loop, stop = started.result(timeout=10)
    yield url
    loop.call_soon_threadsafe(stop.set)
    thread.join(timeout=10)


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    """One connection for all."""
    with requests.Session() as session:
        yield session


# A well-formed request may still be refused for the state it meets: 409, 410 and the like; but never as malformed.
schema = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=schemathesis.Config.from_dict(
        {
            "max-stream-events": 1,  # a stream of events does not end by itself; `test_events` reads on
            "checks": {
                "positive_data_acceptance": {
                    "expected-statuses": ["2xx", "404", "409", "410", "429"],
                },
            },
        }
    ),
)


@schema.hook
def map_body(context: Any, body: Any) -> Any:
    """To JSON Schema 5.0 is an integer. No client writes one so, and the server does not take it: it is sent as 5."""
    if isinstance(body, float) and body.is_integer():
        return int(body)
    if isinstance(body, dict):
        return {name: map_body(context, value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(context, value) for value in body]
    return body


# OpenAPI cannot say that `key` goes with no other parameter of a query, that one number is not above another (or above the last
# revision), nor which nodes a cluster has; the server does.
NOT_EXPRESSIBLE = {
    "GET /v1/locks": [positive_data_acceptance],
    "GET /v1/history": [positive_data_acceptance],
    "POST /v1/history/read": [positive_data_acceptance],
    "GET /v1/events": [positive_data_acceptance],
    "GET /v1/stream": [positive_data_acceptance],  # a WebSocket; `test_stream` speaks one
    "POST /v1/cluster/replace-node": [positive_data_acceptance],
}


@schema.parametrize()
@settings(
    max_examples=EXAMPLES_MAX,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_server_answers_as_described(
    case: schemathesis.Case, base_url: str, http: requests.Session
):
    """Whatever is sent, right or wrong: a described status, media type and body, and never a fault."""
    excluded = NOT_EXPRESSIBLE.get(case.operation.label, [])
    case.call_and_validate(base_url=base_url, session=http, excluded_checks=excluded)
