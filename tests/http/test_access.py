"""Who may do what: every call of openapi.yaml, tried by every kind of identity; and what a refusal does not tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from holdfast.stream_wire import STREAM_PATH
from holdfast_coordinator.access import EVERYBODY, Right
from holdfast_coordinator.http import create_app, rights
from holdfast_coordinator.http.problems import Problem

from .access import EVERYTHING, access_of, bearer, grant, identity
from .openapi import DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Caller, Reply

SESSION = "session-of-the-worker"
ACCESS = access_of(
    identity("worker", grant("acquire", "mine/")),
    identity("reader", grant("read", "mine/")),
    identity("forcer", grant("force", "mine/")),
    identity("admin", grant("admin")),
    identity("auditor", grant("read")),
    identity(
        "neighbour", grant("acquire", "other/"), grant("read", "other/"), grant("force", "other/")
    ),
    identity("nothing"),
    identity("everything", *EVERYTHING),
)
ALL = frozenset(each.name for each in ACCESS.identities)
WORKERS = {"worker", "neighbour", "everything"}
"""Those who may lock something. A session that is not theirs does not exist for them."""
READERS = {"reader", "auditor", "everything"}

OPEN = object()
LOCK = {"key": "mine/held"}
HOLD = {"session": SESSION, "token": 1}
SAID = {"reason": "it hangs", "operator": "Ada"}

# For each call of openapi.yaml: who may make it with this body or query, and how. Written down a second time on purpose: a change
# of `rights.CALLS` that nobody meant fails here.
WHO: dict[str, tuple[Any, dict[str, Any]]] = {
    "POST /v1/sessions": (WORKERS, {"json": {"ttl_ms": 10_000}}),
    "POST /v1/sessions/renew": ({"worker"}, {"json": {"session": SESSION}}),
    "POST /v1/sessions/close": ({"worker"}, {"json": {"session": SESSION}}),
    "POST /v1/locks/acquire": (
        {"worker", "everything"},
        {"json": {"keys": ["mine/free", "mine/too"], "ttl_ms": 10_000}},
    ),
    "POST /v1/locks/release": ({"worker"}, {"json": HOLD}),
    "POST /v1/locks/complete": ({"worker"}, {"json": HOLD | {"result": "r", "retain_ms": 1_000}}),
    "POST /v1/locks/checkpoint": ({"worker"}, {"json": HOLD | {"value": "v"}}),
    "POST /v1/locks/cancel": ({"worker"}, {"json": {"session": SESSION, "request_id": 1}}),
    "POST /v1/locks/force-release": ({"forcer", "everything"}, {"json": LOCK | SAID}),
    "POST /v1/locks/resolve": ({"forcer", "everything"}, {"json": LOCK | SAID | {"token": 1}}),
    "POST /v1/locks/read": (READERS, {"json": LOCK}),
    "GET /v1/locks": (READERS, {"params": LOCK}),
    "GET /v1/locks/check": (READERS, {"params": LOCK | {"token": "1"}}),
    "GET /v1/locks/explain": (READERS, {"params": LOCK}),
    "POST /v1/locks/explain": (READERS, {"json": LOCK}),
    "GET /v1/closed": (READERS, {"params": {"prefix": "mine/"}}),
    "POST /v1/closed/read": (READERS, {"json": {"prefix": "mine/"}}),
    "GET /v1/history": (READERS, {"params": LOCK}),
    "POST /v1/history/read": (READERS, {"json": LOCK}),
    "GET /v1/history/export": ({"auditor", "everything"}, {}),
    "GET /v1/events": (READERS, {"params": {"prefix": "mine/"}}),
    "GET /v1/cluster": (ALL, {}),
    "POST /v1/cluster/step-down": ({"admin", "everything"}, {}),
    "POST /v1/cluster/replace-node": ({"admin", "everything"}, {"json": {"node": "n2"}}),
    "GET /v1/cluster/node": (ALL, {}),
    "POST /v1/cluster/backup": ({"admin", "everything"}, {}),
    "POST /v1/cluster/reload": ({"admin", "everything"}, {}),
    "GET /v1/stream": (ALL, {}),  # what is asked on it: test_stream_access.py
    "GET /v1/openapi.yaml": (ALL, {}),
    "GET /healthz": (OPEN, {}),
    "GET /readyz": (OPEN, {}),
    "GET /metrics": (ALL, {}),
}
DESCRIBED = [
    f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item
]
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
NOT_ITS_OWN = {"POST /v1/sessions/renew", "POST /v1/sessions/close", "POST /v1/locks/release"} | {
    f"POST /v1/locks/{what}" for what in ("complete", "checkpoint", "cancel")
}
"""Calls that name a session: 404 and the like for another who may lock, never a success."""


@pytest.fixture
async def guarded(serve: Callable[..., Any], node: Any) -> Caller:
    """The worker has a session that holds mine/held with token 1."""
    caller: Caller = await serve(node, access=ACCESS)
    await send(caller, "POST", "/v1/sessions", "worker", json={"session": SESSION, "ttl_ms": 9_000})
    body = LOCK | {"session": SESSION, "request_id": 1}
    granted = await send(caller, "POST", "/v1/locks/acquire", "worker", json=body)
    assert granted.body["token"] == 1
    assert granted.body["session"] == SESSION
    return caller


async def send(caller: Caller, method: str, path: str, who: str | None, **how: Any) -> Reply:
    headers = {} if who is None else bearer(who)
    return await caller.send(method, path, headers=headers, **how)


async def status(caller: Caller, call: str, headers: dict[str, str], **how: Any) -> int:
    """Without the body: that of a stream has no end."""
    method, path = call.split()
    if path == STREAM_PATH:
        headers = headers | UPGRADE
    async with caller.http.request(method, caller.url + path, headers=headers, **how) as response:
        return response.status


def test_every_call_has_a_right_and_is_tried_here():
    """A route that is added has to be thought about twice: in `rights.CALLS` (or no node starts), and here."""
    assert set(DESCRIBED) == set(WHO)
    assert set(DESCRIBED) <= set(rights.CALLS)


def test_a_route_without_a_right_is_not_served(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(rights.CALLS, "GET /v1/history")
    with pytest.raises(RuntimeError, match="/v1/history"):
        create_app(node)


@pytest.mark.parametrize("call", DESCRIBED)
async def test_each_call_is_for_those_who_may(guarded: Caller, call: str) -> None:
    """401 for a stranger and for a wrong credential, 403 without the right or for another prefix, and success otherwise."""
    who, how = WHO[call]
    wrong = [
        {},
        bearer("nobody"),
        {"Authorization": "Basic bm9ib2R5"},
        {"Authorization": "Bearer "},
    ]
    for headers in wrong:
        expected = range(200, 300) if who is OPEN else (401,)
        assert await status(guarded, call, headers, **how) in expected, headers
    if who is OPEN:
        return
    for name in sorted(ALL - who):
        expected = (403,)
        if call in NOT_ITS_OWN and name in WORKERS:
            # Cancel makes no difference: there is nothing of this name, and never will be.
            expected = (404, 409, 410)
        assert await status(guarded, call, bearer(name), **how) in expected, name
    for name in sorted(who):
        code = await status(guarded, call, bearer(name), **how)
        # What the first one ended, the next finds ended; the table has let both in.
        assert code in (101, *range(200, 300)) or (code == 409 and name != min(who)), name


async def test_a_401_says_how_and_a_403_says_nothing(guarded: Caller) -> None:
    """Neither depends on what there is: for a key that is held, one that is not, and a session that is another's or nobody's."""
    stranger = await send(guarded, "GET", "/v1/locks", None, params=LOCK)
    assert stranger.code == "unauthenticated"
    assert stranger.headers["WWW-Authenticate"] == 'Bearer realm="holdfast"'
    assert (await send(guarded, "GET", "/v1/locks", "nobody", params=LOCK)).raw == stranger.raw
    refusals = set()
    for key in ("mine/held", "mine/free", "other", "x" * 512):
        for body in ({"key": key, "ttl_ms": 1_000}, {"keys": ["other/1", key], "ttl_ms": 1_000}):
            refused = await send(guarded, "POST", "/v1/locks/acquire", "neighbour", json=body)
            assert refused.code == "forbidden"
            refusals.add(refused.raw)
        for path, what in (("read", {}), ("force-release", SAID)):
            body = {"key": key} | what
            refused = await send(guarded, "POST", f"/v1/locks/{path}", "neighbour", json=body)
            assert refused.code == "forbidden"
            refusals.add(refused.raw)
    assert len(refusals) == 1


async def test_several_keys_need_the_right_for_each(guarded: Caller, node: Any) -> None:
    """One that is not covered is enough to be refused, before anything happens."""
    before = len(node.submitted)
    body = {"keys": ["mine/1", "mine/2", "other/3"], "ttl_ms": 1_000}
    refused = await send(guarded, "POST", "/v1/locks/acquire", "worker", json=body)
    assert refused.code == "forbidden"
    assert len(node.submitted) == before
    body["keys"] = ["mine/1", "mine/2", "mine/3"]
    assert (await send(guarded, "POST", "/v1/locks/acquire", "worker", json=body)).status == 200


async def test_what_a_body_would_cost_is_not_paid_for_a_stranger(guarded: Caller) -> None:
    """Who may not make a call at all is refused before its body is looked at."""
    for who, code in ((None, "unauthenticated"), ("reader", "forbidden")):
        refused = await send(guarded, "POST", "/v1/locks/acquire", who, data=b"{")
        assert refused.code == code


async def test_a_credential_among_several_headers_is_none(guarded: Caller) -> None:
    """Which of them a proxy before us has looked at, nobody knows."""
    path, params = "/v1/locks", LOCK
    both = [*bearer("nobody").items(), *bearer("auditor").items()]
    for headers in (both, both[::-1], [("authorization", "Bearer " + "x" * 10_000)]):
        reply = await guarded.send("GET", path, params=params, headers=headers[:2])
        assert reply.status in (400, 401)


async def test_a_page_of_another_site_may_not_call(serve: Callable[..., Any], node: Any) -> None:
    """Not even where everybody may do everything: it would run in the browser of somebody on the machine. The node's own may."""
    caller: Caller = await serve(node)
    await caller.acquire("k")
    body = {"key": "k"} | SAID
    for origin in ("http://evil.example", "null", f"http://localhost:{caller.port}"):
        refused = await caller.send(
            "POST", "/v1/locks/force-release", json=body, headers={"Origin": origin}
        )
        assert refused.code == "forbidden"
    own = {"Origin": caller.url}
    allowed = await caller.send("POST", "/v1/locks/force-release", json=body, headers=own)
    assert allowed.status == 200


async def test_metrics_can_be_opened(serve: Callable[..., Any], node: Any) -> None:
    """For a Prometheus that has no credential; nothing else is opened with it."""
    caller: Caller = await serve(node, access=access_of(identity("a"), metrics_open=True))
    assert (await caller.get("/metrics")).status == 200
    assert (await caller.get("/v1/cluster")).status == 401


async def test_the_hash_of_the_state_is_for_administrators(guarded: Caller) -> None:
    """It holds up the node."""
    params = {"state_hash": "true"}
    assert (await send(guarded, "GET", "/v1/cluster", "auditor", params=params)).status == 403
    assert (await send(guarded, "GET", "/v1/cluster", "admin", params=params)).status == 200


def test_without_access_everybody_may_do_everything():
    for call in rights.CALLS:
        rights.authorize(EVERYBODY, call, ["any key"])
    assert EVERYBODY.within(Right.READ, "p") == ("p",)


def test_a_call_that_nobody_has_described_is_refused_to_everybody():
    """What carries calls by name may be asked for one that is none."""
    with pytest.raises(Problem) as refused:
        rights.authorize(EVERYBODY, "DELETE /v1/everything")
    assert refused.value.status == 403


async def test_a_path_that_is_none_stays_404(guarded: Caller) -> None:
    """The paths are no secret: they stand in openapi.yaml."""
    assert (await guarded.get("/v1/nothing")).code == "not_found"
    assert (await guarded.send("PUT", "/v1/locks")).code == "method_not_allowed"


async def test_head_needs_what_get_needs(guarded: Caller) -> None:
    async with aiohttp.ClientSession() as http:
        for headers, expected in (({}, 401), (bearer("nothing"), 403), (bearer("reader"), 200)):
            async with http.head(
                f"{guarded.url}/v1/locks", params=LOCK, headers=headers
            ) as response:
                assert response.status == expected
