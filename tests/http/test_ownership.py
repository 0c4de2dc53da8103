"""Sessions belong to the identity that opened them; what is shown is cut to what may be read; who steps in is written down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from holdfast_coordinator.http import ownership
from holdfast_coordinator.machine import Limits, Machine

from .access import EVERYTHING, access_of, bearer, credential, grant, identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Caller, Reply

SESSION = "the-same-session-id"
ACCESS = access_of(
    identity("ada", grant("acquire", "a/", "shared/"), grant("read", "a/", "c/", "shared/")),
    identity("bob", grant("acquire", "b/", "shared/"), grant("read", "b/", "shared/")),
    identity("chief", *EVERYTHING),
)


class As:
    """Calls of one identity."""

    def __init__(self, caller: Caller, name: str) -> None:
        self._caller = caller
        self._name = name

    async def post(self, path: str, **body: Any) -> Reply:
        return await self._caller.send("POST", path, json=body, headers=bearer(self._name))

    async def get(self, path: str, **query: Any) -> Reply:
        return await self._caller.send("GET", path, params=query, headers=bearer(self._name))

    async def open(self, session: str = SESSION) -> Reply:
        return await self.post("/v1/sessions", session=session, ttl_ms=10_000)

    async def acquire(self, *keys: str, **more: Any) -> Reply:
        return await self.post("/v1/locks/acquire", keys=list(keys), **more)


@pytest.fixture
async def three(serve: Callable[..., Any], node: Any) -> tuple[As, As, As]:
    caller: Caller = await serve(node, access=ACCESS)
    return As(caller, "ada"), As(caller, "bob"), As(caller, "chief")


Three = tuple[As, As, As]


async def test_another_identity_cannot_use_a_session_it_knows_the_id_of(three: Three) -> None:
    """For it there is no such session, whatever it asks, and it cannot tell that there is one."""
    ada, _, chief = three
    assert (await ada.open()).body["session"] == SESSION
    token = (await ada.acquire("a/1", session=SESSION, request_id=1)).body["token"]
    hold = {"token": token}
    for path, body in (
        ("sessions/renew", {}),
        ("locks/acquire", {"key": "a/2"}),
        ("locks/checkpoint", hold | {"value": "v"}),
        ("locks/complete", hold | {"result": "r", "retain_ms": 1_000}),
        ("locks/release", hold),
        ("locks/cancel", {"request_id": 1}),
        ("sessions/close", {}),
    ):
        refused = await chief.post(f"/v1/{path}", session=SESSION, **body)
        invented = await chief.post(f"/v1/{path}", session="a-session-of-nobody", **body)
        assert refused.status >= 400, path
        assert refused.raw == invented.raw, path
    assert (await chief.get("/v1/locks/check", key="a/1", token=token)).body["current"]
    assert (await ada.post("/v1/sessions/renew", session=SESSION)).status == 200
    assert (await ada.post("/v1/locks/release", session=SESSION, **hold)).status == 200


async def test_two_identities_may_call_their_sessions_alike(three: Three) -> None:
    """They are two: neither is refused, nor sees, nor ends what is the other's."""
    ada, bob, _ = three
    await ada.open()
    assert (await bob.open()).status == 201
    await ada.acquire("a/1", session=SESSION)
    assert (await bob.acquire("b/1", session=SESSION)).status == 200
    assert (await bob.post("/v1/sessions/close", session=SESSION)).body["released"] == [2]
    assert (await ada.post("/v1/sessions/renew", session=SESSION)).status == 200


async def test_a_repeat_at_another_node_is_the_same_request(
    serve: Callable[..., Any], node: Any
) -> None:
    """Every node makes the same id of it, from the name alone: the table that a second server reads knows the session."""
    first = As(await serve(node, access=ACCESS), "ada")
    second = As(await serve(node, access=ACCESS), "ada")
    await first.open()
    asked = {"session": SESSION, "request_id": 7}
    granted = (await first.acquire("a/1", **asked)).body
    assert (await second.acquire("a/1", **asked)).body["token"] == granted["token"]
    assert (await second.post("/v1/sessions/renew", session=SESSION)).status == 200


async def test_a_new_credential_keeps_the_sessions(serve: Callable[..., Any], node: Any) -> None:
    """Both are valid while they are changed; the identity is the same."""
    digest = ACCESS.identities[0]
    assert digest.name == "ada"
    both = access_of(
        identity("ada", grant("acquire"), bearer_sha256=[*_digests("ada"), *_digests("ada anew")])
    )
    caller = await serve(node, access=both)
    old, new = As(caller, "ada"), As(caller, "ada anew")
    await old.open()
    assert (await new.post("/v1/sessions/renew", session=SESSION)).status == 200


def _digests(name: str) -> list[str]:
    return identity(name).bearer_sha256


async def test_the_table_never_sees_the_id_by_which_a_session_is_used(
    three: Three, node: Any
) -> None:
    """So that a journal, a snapshot or a backup is no help to who finds it. What is an implicit session's is its caller's too."""
    ada, _, _ = three
    await ada.open()
    await ada.acquire("a/1", session=SESSION)
    implicit = (await ada.acquire("a/2", ttl_ms=10_000)).body
    released = await ada.post(
        "/v1/locks/release", session=implicit["session"], token=implicit["token"]
    )
    assert released.status == 200
    snapshot = node.machine.snapshot()
    assert SESSION.encode() not in snapshot
    assert implicit["session"].encode() not in snapshot
    assert credential("ada").encode() not in snapshot
    assert Machine.restore(snapshot, Limits()).counts().sessions == 1


def test_no_two_pairs_of_name_and_session_are_one() -> None:
    """Moving a letter from one to the other makes another session."""
    names = [identity(name) for name in ("a", "ab", "abc")]
    access = access_of(*names)
    ids = {
        ownership.session_in_table(who, session)
        for who in access.identities
        for session in ("c" * 16, "bc" + "c" * 16, "b" + "c" * 16)
    }
    assert len(ids) == 9


# -- what is shown ---------------------------------------------------------------------------------------------------------


async def test_a_listing_is_what_may_be_read_in_pages_without_gaps(three: Three) -> None:
    """Each key once, in order, across prefixes, whatever the size of a page; the last page says that it is the last."""
    ada, bob, chief = three
    for key in ("a/1", "a/2", "b/1", "c/1", "c/2", "d", "shared/1"):
        await chief.acquire(key, ttl_ms=60_000)
    readable = ["a/1", "a/2", "c/1", "c/2", "shared/1"]
    for limit in (1, 2, 3, 5, 100):
        seen, after, pages = [], None, 0
        while pages == 0 or after is not None:
            query = {"limit": limit} if after is None else {"limit": limit, "after": after}
            page = (await ada.get("/v1/locks", **query)).body
            seen += [lock["key"] for lock in page["locks"]]
            after = page["next"]
            pages += 1
            assert len(page["locks"]) <= limit
        assert seen == readable, limit
        assert pages == -(-len(readable) // limit)
    assert [each["key"] for each in (await bob.get("/v1/locks", prefix="b")).body["locks"]] == [
        "b/1"
    ]
    for prefix in ("a/", "d", "c", "nothing"):
        assert (await bob.get("/v1/locks", prefix=prefix)).code == "forbidden"


async def test_closed_keys_are_listed_by_the_same_rule(three: Three) -> None:
    ada, bob, chief = three
    for key in ("a/1", "b/1", "shared/1"):
        granted = (await chief.acquire(key, ttl_ms=10_000)).body
        await chief.post(
            "/v1/locks/complete",
            session=granted["session"],
            token=granted["token"],
            result="done",
            retain_ms=60_000,
        )
    for who, expected in ((ada, ["a/1", "shared/1"]), (bob, ["b/1", "shared/1"])):
        for limit in (1, 2):
            seen, after = [], ""
            while after is not None:
                page = (
                    await who.get("/v1/closed", limit=limit, **({"after": after} if after else {}))
                ).body
                seen += [each["key"] for each in page["closed"]]
                after = page["next"]
            assert seen == expected


async def test_keys_beside_the_one_that_is_asked_for_are_shown_only_if_they_may_be(
    three: Three, node: Any
) -> None:
    """Those of a waiter, of the hold it waits for, of a record of the history."""
    ada, bob, chief = three
    await chief.open("session-of-the-chief")
    await chief.acquire("b/1", ttl_ms=60_000)
    granted = (await chief.acquire("shared/1", "b/2", ttl_ms=60_000)).body
    caller = ada._caller
    request = caller.http.post(
        f"{caller.url}/v1/locks/acquire",
        json={"keys": ["shared/1", "b/1"], "ttl_ms": 9_000, "wait_ms": 5_000},
        headers=bearer("chief"),
    )
    waiting = asyncio.ensure_future(request)
    await node.queued.wait()
    for who, keys, holds in (
        (ada, ["shared/1"], {"shared/1"}),
        (bob, ["shared/1", "b/1"], {"shared/1", "b/1"}),
    ):
        (waiter,) = (await who.get("/v1/locks", key="shared/1")).body["waiters"]
        assert waiter["keys"] == keys
        (waiter,) = (await who.get("/v1/locks/explain", key="shared/1")).body["waiters"]
        assert waiter["keys"] == keys
        assert {each["key"] for each in waiter["waits_for"]} == holds
    history = (await ada.get("/v1/history", key="shared/1")).body["records"]
    assert [record["keys"] for record in history] == [["shared/1"]]
    history = (await bob.get("/v1/history", key="shared/1")).body["records"]
    assert [record["keys"] for record in history] == [["shared/1", "b/2"]]
    await chief.post("/v1/locks/release", session=granted["session"], token=granted["token"])
    await chief.post("/v1/locks/force-release", key="b/1", reason="r", operator="o")
    (await waiting).close()


async def test_a_stream_of_events_tells_of_what_may_be_read(three: Three) -> None:
    """Without a prefix it is of everything that may be; other keys of the same event are left out."""
    ada, _, chief = three
    caller = ada._caller
    async with caller.http.get(f"{caller.url}/v1/events", headers=bearer("ada")) as stream:
        await chief.acquire("b/1", ttl_ms=60_000)
        await chief.acquire("b/2", "shared/2", "a/1", ttl_ms=60_000)
        await chief.acquire("c/9", ttl_ms=60_000)
        data = []
        while len(data) < 3:
            line = await stream.content.readline()
            if line.startswith(b"data: "):
                data.append(msgspec.json.decode(line[6:]))
    assert [each["keys"] for each in data[1:]] == [["shared/2", "a/1"], ["c/9"]]


async def test_the_steps_of_a_deadlock_at_the_keys_of_others_are_left_out(
    three: Three, node: Any
) -> None:
    """Whoever may neither lock nor read them need not know which they are."""
    ada, _, chief = three
    await chief.open("session-of-the-chief")
    await ada.open()
    caller = ada._caller
    # ada holds shared/1 and asks for a/1, which the chief holds while it waits for d and, through a third, for shared/1.
    await ada.acquire("shared/1", session=SESSION, context="task of ada")
    chiefs = {"session": "session-of-the-chief"}
    await chief.acquire("a/1", **chiefs, context="one")
    await chief.acquire("d", **chiefs, context="two")

    async def wait(key: str, context: str) -> None:
        body = {"key": key, "context": context, "wait_ms": 5_000} | chiefs
        await caller.send("POST", "/v1/locks/acquire", json=body, headers=bearer("chief"))

    waits = []
    for key, context in (("d", "one"), ("shared/1", "two")):
        node.queued.clear()
        waits.append(asyncio.ensure_future(wait(key, context)))
        await node.queued.wait()
    body = {"session": SESSION, "context": "task of ada", "wait_ms": 5_000}
    refused = await ada.acquire("a/1", **body)
    assert refused.code == "deadlock"
    steps = msgspec.json.decode(refused.raw)["cycle"]
    assert {step["key"] for step in steps} == {"a/1", "shared/1"}
    for each in waits:
        each.cancel()


# -- the record ------------------------------------------------------------------------------------------------------------


def audits(logs: list[Any]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in ("event", "log_level")}
        for line in logs
        if line["event"] == "audit"
    ]


async def test_who_steps_in_is_logged_and_stands_in_the_history(three: Three) -> None:
    """As the cluster knows it, before what it says of itself. The line has the tokens, and no key."""
    ada, _, chief = three
    await chief.acquire("a/1", ttl_ms=60_000)
    with capture_logs() as logs:
        await chief.post("/v1/locks/force-release", key="a/1", reason="it hangs", operator="Ann")
        await chief.post(
            "/v1/locks/resolve", key="a/1", token=1, reason="looked at it", operator="chief"
        )
    call = "POST /v1/locks/"
    assert audits(logs) == [
        {
            "identity": "chief",
            "call": f"{call}force-release",
            "operator": "Ann",
            "reason": "it hangs",
            "tokens": [1],
            "floor": 2,
            "outcome": "done",
        },
        {
            "identity": "chief",
            "call": f"{call}resolve",
            "operator": "chief",
            "reason": "looked at it",
            "tokens": [1],
            "resolved": True,
            "outcome": "done",
        },
    ]
    assert "a/1" not in str(logs)
    records = (await ada.get("/v1/history", key="a/1")).body["records"]
    assert [each.get("operator") for each in records] == [None, "chief: Ann", "chief"]


async def test_what_was_refused_is_logged_too(three: Three, node: Any) -> None:
    """For its rights, for what it says, and by the machine."""
    ada, _, chief = three
    with capture_logs() as logs:
        await ada.post("/v1/cluster/step-down")
        await chief.post("/v1/cluster/step-down")
        await chief.post("/v1/cluster/replace-node", node="n2")
        await chief.post("/v1/locks/resolve", key="a/1")
        await chief.post("/v1/locks/force-release", key="a/1", reason="r", operator="o" * 250)
        await chief.post("/v1/locks/force-release", key="a/1", reason="r", operator="o")
    assert [(line["identity"], line["call"][9:], line["outcome"]) for line in audits(logs)] == [
        ("ada", "cluster/step-down", "forbidden"),
        ("chief", "cluster/step-down", "done"),
        ("chief", "cluster/replace-node", "done"),
        ("chief", "locks/resolve", "bad_request"),
        ("chief", "locks/force-release", "bad_request"),
        ("chief", "locks/force-release", "not_held"),
    ]
