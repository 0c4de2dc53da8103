"""Whatever is sent: a success, a problem of the 4xx, or the end of the connection; never a fault of the server."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from holdfast import wire
from holdfast_coordinator.config import HttpLimits
from holdfast_coordinator.http import bodies, callers, calls, queries, requests
from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.machine import Limits
from holdfast_coordinator.machine.codec import decode_operation, encode_operation

from .access import access_of, identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Caller

fuzz = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

DECODERS = {
    name.removeprefix("decode_"): decode
    for name, decode in vars(bodies).items()
    if name.startswith("decode_")
}
LIMITS = Limits()
TO_REQUESTS: dict[str, Callable[[Any], Any]] = {
    "open": lambda body: requests.open_session(body, lambda: "s" * 32, LIMITS),
    "session": requests.renew_session,
    "acquire": lambda body: requests.acquire(body, lambda: "s" * 32, LIMITS),
    "release": requests.release,
    "complete": requests.complete,
    "checkpoint": requests.checkpoint,
    "force_release": requests.force_release,
    "resolve": requests.resolve,
    "cancel": requests.cancel,
    "replace": lambda body: None,
    "read": lambda body: requests.read(body, 1_000),
    "explain": requests.explain,
    "closed": lambda body: requests.read_closed(body, 1_000),
    "history": lambda body: requests.read_history(body, 1_000),
}

fields = st.sampled_from(
    sorted(
        {
            field
            for struct in vars(bodies).values()
            if inspect.isclass(struct) and issubclass(struct, msgspec.Struct)
            for field in struct.__struct_fields__
        }
    )
)
text = st.text(max_size=40)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.integers(0, 100_000),
        st.floats(allow_nan=False, allow_infinity=False),
        text,
        st.sampled_from(["shared", "exclusive", "delay", "in_doubt", "k", "s" * 32]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=3)),
    max_leaves=12,
)
structured = st.one_of(values, st.dictionaries(fields, values, max_size=8))


def test_every_body_is_fuzzed() -> None:
    assert set(DECODERS) == set(TO_REQUESTS)


def understood(name: str, data: bytes, *, msgpack: bool) -> Any:
    """The operation or read that the bytes are, if they are one; None: a problem that is the caller's own."""
    try:
        return TO_REQUESTS[name](DECODERS[name](data, msgpack=msgpack))
    except Problem as raised:
        problem = raised
    assert problem.code is wire.Code.BAD_REQUEST
    assert problem.field is not None
    assert len(problem.response().body or b"") < 4_000  # type: ignore[arg-type]
    return None


def machine_takes(operation: Any) -> None:
    """What was let through is an operation that the machine answers, and that means the same after it was written and read."""
    if type(operation).__module__ != "holdfast_coordinator.machine.operations":
        return
    assert decode_operation(encode_operation(operation)) == operation


@fuzz
@given(name=st.sampled_from(sorted(DECODERS)), value=structured)
def test_any_structure_as_a_body(name: str, value: Any) -> None:
    for msgpack in (False, True):
        encode = msgspec.msgpack.encode if msgpack else msgspec.json.encode
        machine_takes(understood(name, encode(value), msgpack=msgpack))


@fuzz
@given(name=st.sampled_from(sorted(DECODERS)), data=st.binary(max_size=300), msgpack=st.booleans())
@example("open", b"[" * 100_000, False)
@example("open", b"\x91" * 100_000, True)
@example("open", b'{"ttl_ms":' + b"9" * 5_000 + b"}", False)
@example("open", b'{"ttl_ms":1e400}', False)
@example("open", b'{"ttl_ms":1,"session":"\\ud800"}', False)
@example("acquire", b"\xdf\xff\xff\xff\xff", True)
@example("acquire", b"\xdd\xff\xff\xff\xff", True)
@example("acquire", b"\xc6\xff\xff\xff\xff", True)
def test_any_bytes_as_a_body(name: str, data: bytes, msgpack: bool) -> None:
    """Lengths that are not there, depths without end, numbers without end: refused without taking what they claim."""
    machine_takes(understood(name, data, msgpack=msgpack))


GOOD = {
    "keys": ["a", "b"],
    "session": "s" * 32,
    "wait_ms": 5,
    "mode": "shared",
    "limit": 3,
    "request_id": 7,
    "settled": 6,
    "owner": "o",
    "context": "c",
}


@fuzz
@given(
    msgpack=st.booleans(),
    seed=st.integers(0, 2**32),
    edits=st.integers(1, 4),
)
def test_a_good_body_with_some_bytes_changed(msgpack: bool, seed: int, edits: int) -> None:
    """Nearly right is where a parser's edges are."""
    encode = msgspec.msgpack.encode if msgpack else msgspec.json.encode
    data, chance = bytearray(encode(GOOD)), random.Random(seed)  # noqa: S311
    for _ in range(edits):
        place = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place]
            case 2:
                data[place:place] = bytes([chance.randrange(256)])
    machine_takes(understood("acquire", bytes(data), msgpack=msgpack))


@fuzz
@given(raw=st.one_of(text, st.text("key=&%+;0123456789abcdefABCDEF\ud800", max_size=60)))
def test_any_query(raw: str) -> None:
    for read in (queries.locks, queries.check, queries.closed, queries.history):
        status = 400
        try:
            values = queries.parse(
                raw, queries.LOCKS | queries.CHECK | queries.CLOSED | queries.HISTORY
            )
            read(values)
            queries.consistency(values)
        except Problem as problem:
            status = problem.status
        assert status == 400


@fuzz
@given(st.lists(st.one_of(text, text.map(lambda t: f"Bearer {t}")), max_size=3))
def test_any_authorization_is_nobody(written: list[str]) -> None:
    access = access_of(identity("a"))
    assert callers.find(access, written, None) is None
    assert callers.find(access, written, {"subjectAltName": (("DNS", "x"), ("URI", "y"))}) is None


# -- over the wire ---------------------------------------------------------------------------------------------------------

PARTS = [
    *(
        b"GET ",
        b"POST ",
        b"PRI * HTTP/2.0",
        b"/v1/locks/acquire",
        b"/healthz",
        b"?key=%zz",
        b" HTTP/1.1",
    ),
    *(
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"\0",
        b"\xff",
        b" ",
        b":",
        b"Host: n",
        b"Content-Length: ",
        b"-1",
    ),
    *(b"5", b"99999999999999999999", b"Transfer-Encoding: chunked", b"ffffffff\r\n", b"0\r\n\r\n"),
    *(
        b"Expect: 100-continue",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Authorization: Bearer x",
    ),
    *(
        b"Content-Type: application/msgpack",
        b"Content-Encoding: gzip",
        b"{}",
        b"\x80",
        b'{"key":"k"}',
    ),
]
BEGINNINGS = [
    b"",
    b"GET /healthz HTTP/1.1\r\nHost: n\r\n",
    b"POST /v1/locks/acquire HTTP/1.1\r\nHost: n\r\n",
]
STREAMS = 150


async def test_any_bytes_on_a_connection(
    serve: Callable[..., Any], node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of HTTP in any order: what comes back are answers without a 5xx, no fault is logged, and the next caller is served."""
    monkeypatch.setattr(calls, "BODY_READ_SECONDS_MAX", 0.1)
    caller: Caller = await serve(node, http_limits=HttpLimits(head_read_ms_max=100))
    chance = random.Random(2)  # noqa: S311
    answered = 0
    with capture_logs() as logs:
        for _ in range(STREAMS):
            between = chance.choice([b"", b"\r\n"])
            said = between.join(chance.choice(PARTS) for _ in range(chance.randrange(1, 12)))
            said = (
                chance.choice(BEGINNINGS) + said + chance.choice([b"", b"\r\n\r\n", b"\r\n\r\n{}"])
            )
            answer = await _say(caller.port, said)
            answered += answer.startswith((b"HTTP/1.0 4", b"HTTP/1.1 "))
            assert b"HTTP/1.0 5" not in answer, said
            assert b"HTTP/1.1 5" not in answer, said
    assert not [line for line in logs if line["event"] == "request_failed"]
    assert answered > STREAMS / 2
    assert (await caller.get("/healthz")).status == 200


async def _say(port: int, said: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    answer = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65_536):
            answer += piece
            if not answer.startswith(b"HTTP/1.1 100"):
                writer.close()  # or it would be kept for the next request
    writer.close()
    return bytes(answer)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_an_empty_body_is_named(name: str) -> None:
    assert understood(name, b"", msgpack=False) is None
