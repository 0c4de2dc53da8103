"""Whatever is wrong with a request ends as a problem that says what, and changes nothing."""

from __future__ import annotations

import asyncio
import gzip
import json

import msgspec
import pytest

from holdfast import wire
from holdfast_coordinator.config import HttpLimits
from holdfast_coordinator.machine import Limits

SESSION = "0123456789abcdef"
ACQUIRE = "/v1/locks/acquire"
GOOD = {"key": "k", "ttl_ms": 10_000}
LONG = "x" * 513

COMPLETE = {"session": SESSION, "token": 1, "result": "r", "retain_ms": 1_000}
CHECKPOINT = {"session": SESSION, "token": 1, "value": "v"}
FORCE = {"key": "k", "reason": "r", "operator": "o"}
RESOLVE = FORCE | {"token": 1}

BAD_ACQUIRES = [
    ("key", {"ttl_ms": 1000}),
    ("key", {"key": "", "ttl_ms": 1000}),
    ("key", {"key": 5, "ttl_ms": 1000}),
    ("key", {"key": LONG, "ttl_ms": 1000}),
    ("key", {"key": "é" * 257, "ttl_ms": 1000}),
    ("key", {"key": "a\nb", "ttl_ms": 1000}),
    ("key", {"key": "a\x7f", "ttl_ms": 1000}),
    ("key", {"key": "a\x85", "ttl_ms": 1000}),
    ("keys", {"key": "k", "keys": ["k"], "ttl_ms": 1000}),
    ("keys", {"keys": [], "ttl_ms": 1000}),
    ("keys", {"keys": "k", "ttl_ms": 1000}),
    ("keys", {"keys": [str(n) for n in range(65)], "ttl_ms": 1000}),
    ("keys[1]", {"keys": ["a", "a"], "ttl_ms": 1000}),
    ("keys[1]", {"keys": ["a", ""], "ttl_ms": 1000}),
    ("keys[1]", {"keys": ["a", 7], "ttl_ms": 1000}),
    ("session", {"key": "k"}),
    ("session", {"key": "k", "session": "short"}),
    ("session", {"key": "k", "session": "x" * 65}),
    ("session", {"key": "k", "session": "with a space in it"}),
    ("session", {"key": "k", "session": "0123456789abcdef\n"}),
    ("ttl_ms", {"key": "k", "ttl_ms": 999}),
    ("ttl_ms", {"key": "k", "ttl_ms": 24 * 3600 * 1000 + 1}),
    ("ttl_ms", {"key": "k", "ttl_ms": "1000"}),
    ("ttl_ms", {"key": "k", "ttl_ms": 1000.5}),
    ("ttl_ms", {"key": "k", "ttl_ms": True}),
    ("ttl_ms", {"key": "k", "ttl_ms": -(2**63)}),
    ("wait_ms", GOOD | {"wait_ms": -1}),
    ("wait_ms", GOOD | {"wait_ms": 30_001}),
    ("wait_ms", GOOD | {"wait_ms": None}),
    ("mode", GOOD | {"mode": "exclusively"}),
    ("mode", GOOD | {"mode": None}),
    ("limit", GOOD | {"limit": 3}),
    ("limit", GOOD | {"mode": "exclusive", "limit": 1}),
    ("limit", GOOD | {"mode": "shared", "limit": 0}),
    ("limit", GOOD | {"mode": "shared", "limit": 1_000_001}),
    ("limit", GOOD | {"mode": "shared", "limit": "3"}),
    ("on_unclean", GOOD | {"on_unclean": "shrug"}),
    ("on_unclean", GOOD | {"on_unclean": "refuse", "mode": "shared"}),
    ("on_unclean", GOOD | {"on_unclean": "delay", "delay_ms": 5, "mode": "shared"}),
    ("delay_ms", GOOD | {"on_unclean": "delay"}),
    ("delay_ms", GOOD | {"delay_ms": 5}),
    ("delay_ms", GOOD | {"on_unclean": "refuse", "delay_ms": 5}),
    ("delay_ms", GOOD | {"on_unclean": "delay", "delay_ms": 0}),
    ("delay_ms", GOOD | {"on_unclean": "delay", "delay_ms": 3_600_001}),
    ("require_clean", GOOD | {"require_clean": "yes"}),
    ("require_clean", GOOD | {"require_clean": 1}),
    ("request_id", GOOD | {"request_id": 1}),
    ("request_id", GOOD | {"session": SESSION, "request_id": -1}),
    ("request_id", GOOD | {"session": SESSION, "request_id": 2**53}),
    ("request_id", GOOD | {"session": SESSION, "request_id": ""}),
    ("request_id", GOOD | {"session": SESSION, "request_id": "r" * 129}),
    ("request_id", GOOD | {"session": SESSION, "request_id": "a\x00"}),
    ("request_id", GOOD | {"session": SESSION, "request_id": [1]}),
    ("settled", GOOD | {"settled": 1}),
    ("settled", GOOD | {"session": SESSION, "settled": -1}),
    ("owner", GOOD | {"owner": "o" * 257}),
    ("owner", GOOD | {"owner": "\x1b[31m"}),
    ("context", GOOD | {"context": "é" * 65}),
    ("colour", GOOD | {"colour": "red"}),
    ("body", []),
    ("body", "k"),
    ("body", None),
]


@pytest.mark.parametrize(("field", "body"), BAD_ACQUIRES)
@pytest.mark.parametrize("msgpack", [False, True])
async def test_each_wrong_field_of_an_acquire_is_named(caller, node, field, body, msgpack):
    """In either encoding, and before the node hears of it."""
    if msgpack:
        data, media = msgspec.msgpack.encode(body), wire.MEDIA_MSGPACK
    else:
        data, media = json.dumps(body).encode(), wire.MEDIA_JSON
    refused = await caller.send("POST", ACQUIRE, data=data, headers={"Content-Type": media})
    assert (refused.status, refused.code) == (400, "bad_request")
    assert refused.body["field"] == field
    assert node.submitted == []


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("/v1/sessions", "ttl_ms", {}),
        ("/v1/sessions", "ttl_ms", {"ttl_ms": 0}),
        ("/v1/sessions", "session", {"ttl_ms": 1000, "session": "x"}),
        ("/v1/sessions", "owner", {"ttl_ms": 1000, "owner": 3}),
        ("/v1/sessions", "ttl", {"ttl_ms": 1000, "ttl": 1}),
        ("/v1/sessions/renew", "session", {}),
        ("/v1/sessions/renew", "session", {"session": None}),
        ("/v1/sessions/renew", "ttl_ms", {"session": SESSION, "ttl_ms": 3}),
        ("/v1/sessions/close", "session", {"session": ""}),
        ("/v1/locks/release", "token", {"session": SESSION}),
        ("/v1/locks/release", "token", {"session": SESSION, "token": 0}),
        ("/v1/locks/release", "token", {"session": SESSION, "token": 2**53}),
        ("/v1/locks/release", "session", {"token": 1}),
        ("/v1/locks/complete", "session", {}),
        ("/v1/locks/complete", "token", COMPLETE | {"token": 0}),
        ("/v1/locks/complete", "result", COMPLETE | {"result": None}),
        ("/v1/locks/complete", "result", COMPLETE | {"result": {}}),
        ("/v1/locks/complete", "result", COMPLETE | {"result": "x" * 4097}),
        ("/v1/locks/complete", "result", COMPLETE | {"result": "é" * 2049}),
        ("/v1/locks/complete", "retain_ms", COMPLETE | {"retain_ms": 999}),
        ("/v1/locks/complete", "retain_ms", COMPLETE | {"retain_ms": 2_592_000_001}),
        ("/v1/locks/complete", "value", COMPLETE | {"value": "v"}),
        ("/v1/locks/checkpoint", "session", CHECKPOINT | {"session": "s"}),
        ("/v1/locks/checkpoint", "token", CHECKPOINT | {"token": "1"}),
        ("/v1/locks/checkpoint", "value", {"session": SESSION, "token": 1}),
        ("/v1/locks/checkpoint", "value", CHECKPOINT | {"value": "x" * 4097}),
        ("/v1/locks/force-release", "key", FORCE | {"key": ""}),
        ("/v1/locks/force-release", "token", FORCE | {"token": 0}),
        ("/v1/locks/force-release", "reason", {"key": "k", "operator": "o"}),
        ("/v1/locks/force-release", "reason", FORCE | {"reason": ""}),
        ("/v1/locks/force-release", "reason", FORCE | {"reason": " "}),
        ("/v1/locks/force-release", "reason", FORCE | {"reason": "a\nb"}),
        ("/v1/locks/force-release", "reason", FORCE | {"reason": "x" * 513}),
        ("/v1/locks/force-release", "operator", FORCE | {"operator": "x" * 257}),
        ("/v1/locks/force-release", "session", FORCE | {"session": SESSION}),
        ("/v1/locks/resolve", "token", FORCE),
        ("/v1/locks/resolve", "token", RESOLVE | {"token": None}),
        ("/v1/locks/resolve", "operator", RESOLVE | {"operator": ""}),
        ("/v1/locks/resolve", "reason", RESOLVE | {"reason": 5}),
        ("/v1/locks/explain", "key", {}),
        ("/v1/locks/explain", "key", {"key": LONG}),
        ("/v1/closed/read", "by", {"by": "magic"}),
        ("/v1/closed/read", "limit", {"limit": 1001}),
        ("/v1/closed/read", "key", {"key": "k"}),
        ("/v1/closed/read", "after", {"after": ""}),
        ("/v1/history/read", "key", {}),
        ("/v1/history/read", "from_ms", {"key": "k", "from_ms": -1}),
        ("/v1/history/read", "to_ms", {"key": "k", "from_ms": 5, "to_ms": 4}),
        ("/v1/history/read", "to_ms", {"key": "k", "to_ms": 2**53}),
        ("/v1/history/read", "after", {"key": "k", "after": "k"}),
        ("/v1/history/read", "limit", {"key": "k", "limit": 0}),
        ("/v1/locks/cancel", "request_id", {"session": SESSION}),
        ("/v1/locks/cancel", "request_id", {"session": SESSION, "request_id": None}),
        ("/v1/locks/cancel", "session", {"session": "s", "request_id": 1}),
        ("/v1/locks/read", "key", {"key": ""}),
        ("/v1/locks/read", "prefix", {"key": "k", "prefix": "k"}),
        ("/v1/locks/read", "limit", {"limit": 0}),
        ("/v1/locks/read", "limit", {"limit": 1001}),
        ("/v1/locks/read", "after", {"key": "k", "after": "k"}),
        ("/v1/locks/read", "after", {"after": LONG}),
        ("/v1/locks/read", "consistency", {"consistency": "local"}),
    ],
)
async def test_each_wrong_field_of_the_other_calls_is_named(caller, node, path, field, body):
    refused = await caller.post(path, body)
    assert (refused.status, refused.code) == (400, "bad_request")
    assert refused.body["field"] == field
    assert node.submitted == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/locks?key=", "key"),
        ("/v1/locks?key=%FF", "query"),
        ("/v1/locks?key=%00", "key"),
        (f"/v1/locks?key={LONG}", "key"),
        ("/v1/locks?key=a&key=b", "key"),
        ("/v1/locks?key=a&prefix=b", "prefix"),
        ("/v1/locks?limit=0", "limit"),
        ("/v1/locks?limit=1001", "limit"),
        ("/v1/locks?limit=ten", "limit"),
        ("/v1/locks?limit=", "limit"),
        ("/v1/locks?limit=-1", "limit"),
        ("/v1/locks?limit=%D9%A1", "limit"),
        ("/v1/locks?after=", "after"),
        ("/v1/locks?colour=red", "colour"),
        ("/v1/locks?consistency=maybe", "consistency"),
        ("/v1/locks?" + "&".join(f"a{n}=1" for n in range(9)), "query"),
        ("/v1/locks/check?token=1", "key"),
        ("/v1/locks/check?key=k", "token"),
        ("/v1/locks/check?key=k&token=0", "token"),
        ("/v1/locks/check?key=k&token=x", "token"),
        ("/v1/locks/check?key=k&token=99999999999999999999", "token"),
        ("/v1/locks/explain", "key"),
        ("/v1/locks/explain?key=%00", "key"),
        ("/v1/locks/explain?key=k&limit=1", "limit"),
        ("/v1/closed?by=magic", "by"),
        ("/v1/closed?limit=0", "limit"),
        ("/v1/closed?key=k", "key"),
        ("/v1/history", "key"),
        ("/v1/history?key=k&from_ms=yesterday", "from_ms"),
        ("/v1/history?key=k&from_ms=5&to_ms=4", "to_ms"),
        ("/v1/history?key=k&after=9999999999999999", "after"),
        ("/v1/history/export?after=x", "after"),
        ("/v1/history/export?key=k", "key"),
        ("/v1/events?after=-1", "after"),
        ("/v1/events?after=1", "after"),
        ("/v1/events?prefix=%07", "prefix"),
        ("/v1/events?key=k", "key"),
        ("/v1/cluster?x=1", "x"),
    ],
)
async def test_each_wrong_query_parameter_is_named(serve, node, path, field):
    """The path is sent as it stands; a client library would mend it."""
    caller = await serve(node)
    status, problem = await _raw(caller.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (status, problem["code"], problem["field"]) == (400, "bad_request", field)


@pytest.mark.parametrize("digits", [30, 5_000])
async def test_an_integer_that_is_too_long_to_print_is_out_of_range(caller, digits):
    """Python refuses to turn thousands of digits into text; the caller must not see that as a fault of ours."""
    data = b'{"key":"k","ttl_ms":%s}' % (b"9" * digits)
    headers = {"Content-Type": "application/json"}
    refused = await caller.send("POST", ACQUIRE, data=data, headers=headers)
    assert refused.code == "bad_request"
    assert refused.body["field"] in {"ttl_ms", "body"}


async def test_a_call_that_takes_no_query_refuses_one(caller):
    """A key that somebody puts there would be ignored, and they would believe it was not."""
    refused = await caller.post(ACQUIRE, GOOD, "?wait_ms=5000")
    assert (refused.code, refused.body["field"]) == ("bad_request", "wait_ms")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"key":"k","ttl_ms":1000} trailing',
        b'{"key":"\xff","ttl_ms":1000}',
        b'{"key":"\\ud800","ttl_ms":1000}',
        b'{"key":"k","ttl_ms":NaN}',
        b"[" * 20_000,
    ],
)
async def test_a_body_that_is_no_json_is_a_bad_request(caller, data):
    refused = await caller.send(
        "POST", ACQUIRE, data=data, headers={"Content-Type": "application/json"}
    )
    assert (refused.code, refused.body["field"]) == ("bad_request", "body")


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81", b"\x81\xa3key\xa1", b"\x91" * 20_000])
async def test_a_body_that_is_no_msgpack_is_a_bad_request(caller, data):
    headers = {"Content-Type": "application/msgpack"}
    refused = await caller.send("POST", ACQUIRE, data=data, headers=headers)
    assert (refused.code, refused.body["field"]) == ("bad_request", "body")


@pytest.mark.parametrize(
    "media",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "application/msgpack; charset=utf-8",
        "application/problem+json",
        "json",
        "",
    ],
)
async def test_any_other_content_type_is_415_and_says_what_to_send(caller, media):
    refused = await caller.send(
        "POST", ACQUIRE, data=json.dumps(GOOD), headers={"Content-Type": media}
    )
    assert (refused.status, refused.code) == (415, "unsupported_media_type")
    assert "application/json" in refused.body["detail"]


@pytest.mark.parametrize(
    "media",
    ["Application/JSON", "application/json;charset=UTF-8", 'application/json; charset="utf-8"'],
)
async def test_json_by_any_of_its_spellings_is_taken(caller, media):
    reply = await caller.send(
        "POST", ACQUIRE, data=json.dumps(GOOD), headers={"Content-Type": media}
    )
    assert reply.status == 200


async def test_a_packed_body_is_refused_unopened(caller, node):
    """Else a kilobyte could become a gigabyte here."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    data = gzip.compress(json.dumps(GOOD).encode())
    refused = await caller.send("POST", ACQUIRE, data=data, headers=headers)
    assert (refused.status, refused.code) == (415, "unsupported_media_type")
    assert node.submitted == []


@pytest.mark.parametrize(
    ("accept", "msgpack"),
    [
        ("*/*", False),
        ("text/html", False),
        ("application/msgpack", True),
        ("application/msgpack, */*;q=0.5", True),
        ("application/json, application/msgpack;q=0.9", False),
        ("application/json;q=0.1, application/msgpack", True),
        ("application/msgpack;q=0", False),
        ("application/msgpack;q=much", False),
    ],
)
async def test_the_answer_is_msgpack_only_if_the_caller_likes_it_best(caller, accept, msgpack):
    reply = await caller.send("GET", "/healthz", headers={"Accept": accept})
    assert reply.headers["Content-Type"] == (wire.MEDIA_MSGPACK if msgpack else wire.MEDIA_JSON)


async def test_problems_are_json_for_msgpack_callers_too(caller):
    refused = await caller.send("POST", ACQUIRE, json={}, headers={"Accept": "application/msgpack"})
    assert refused.code == "bad_request"


async def test_a_body_over_the_limit_is_413_and_the_connection_goes_on(serve, node):
    """Exactly at the limit is not over it."""
    caller = await serve(node, http_limits=HttpLimits(body_bytes_max=100))
    body = json.dumps(GOOD).encode()
    headers = {"Content-Type": "application/json"}
    fits = await caller.send("POST", ACQUIRE, data=body.ljust(100), headers=headers)
    assert fits.status == 200
    refused = await caller.send("POST", ACQUIRE, data=body.ljust(101), headers=headers)
    assert (refused.status, refused.code) == (413, "too_large")
    assert refused.body["limit"] == "body_bytes_max"
    assert (await caller.get("/healthz")).status == 200


async def test_a_page_is_no_longer_than_the_configuration_allows(serve, node):
    caller = await serve(node, http_limits=HttpLimits(list_limit_max=2))
    assert (await caller.get("/v1/locks", limit=3)).body["field"] == "limit"
    for key in "abc":
        await caller.acquire(key)
    assert len((await caller.get("/v1/locks")).body["locks"]) == 2


async def test_the_machines_bounds_are_those_of_the_configuration(serve, make_node):
    """A test cluster may have shorter leases than a real one."""
    limits = Limits(ttl_ms_min=10, wait_ms_max=50, keys_per_acquire_max=1)
    caller = await serve(make_node(limits), machine_limits=limits)
    assert (await caller.acquire("k", ttl_ms=10)).status == 200
    assert (await caller.acquire("k", wait_ms=51)).body["field"] == "wait_ms"
    two = await caller.post(ACQUIRE, {"keys": ["a", "b"], "ttl_ms": 10})
    assert two.body["field"] == "keys"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/lock", "/v1/locks/", "/v2/locks", "/%00", "/é"])
async def test_no_such_path_is_a_404_problem(caller, path):
    refused = await caller.get(path)
    assert (refused.status, refused.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", ACQUIRE, "POST"),
        ("DELETE", "/v1/locks", "GET,HEAD"),
        ("POST", "/healthz", "GET,HEAD"),
        ("OPTIONS", "/v1/sessions", "POST"),
        ("PROPFIND", "/v1/sessions", "POST"),
    ],
)
async def test_the_wrong_method_is_a_405_problem_that_tells_the_right_one(
    caller, method, path, allow
):
    refused = await caller.send(method, path)
    assert (refused.status, refused.code) == (405, "method_not_allowed")
    assert refused.headers["Allow"] == allow


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /v1/locks?key=" + b"k" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_a_problem_and_is_not_logged(caller, capsys, request_bytes):
    """The line that cannot be read may hold somebody's key."""
    status, problem = await _raw(caller.port, request_bytes)
    assert (status, problem["code"]) == (400, "bad_request")
    assert "kkkk" not in json.dumps(problem)
    captured = capsys.readouterr()
    assert "kkkk" not in captured.out + captured.err


@pytest.mark.parametrize(("expect", "status"), [("100-continue", 200), ("a miracle", 400)])
async def test_a_caller_may_ask_before_it_sends_its_body(caller, expect, status):
    """curl does so with larger bodies. Whatever else is expected is refused as a problem."""
    reply = await caller.send("POST", ACQUIRE, json=GOOD, headers={"Expect": expect})
    assert reply.status == status
    if status == 400:
        assert (reply.code, reply.body["field"]) == ("bad_request", "Expect")


async def test_a_body_that_ends_early_takes_nothing_with_it(caller, node):
    """A caller that dies in the middle of a body asked for nothing."""
    _, writer = await asyncio.open_connection("127.0.0.1", caller.port)
    head = b"POST /v1/locks/acquire HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n"
    writer.write(head + b'{"key":')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await caller.get("/healthz")).status == 200
    assert node.submitted == []


async def test_a_bad_chunk_is_a_bad_request(caller):
    status, problem = await _raw(
        caller.port,
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    )
    assert (status, problem["code"]) == (400, "bad_request")


async def _raw(port: int, request: bytes) -> tuple[int, dict[str, object]]:
    """What a server answers to exactly these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert "content-type: application/problem+json" in head
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    body = json.loads(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return int(head.split(" ")[1]), body
