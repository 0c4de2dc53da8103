"""Addresses, encodings, and what comes of one attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import holdfast
from holdfast.transport import Endpoints, HttpTransport, NoAnswer, NotSent, Request, parse_endpoints

if TYPE_CHECKING:
    from collections.abc import Callable

CLUSTER = Request("GET", "/v1/cluster")


def test_endpoints_are_addresses() -> None:
    """A string with commas or a sequence; the scheme may be left out; nothing else is taken."""
    assert parse_endpoints("http://a:1/, b:2 ,a:1") == ("http://a:1", "http://b:2")
    assert parse_endpoints(["https://a"]) == ("https://a",)
    wrong: str | list[str]
    for wrong in ("", " , ", "ftp://a", []):
        with pytest.raises(ValueError, match="endpoint"):
            parse_endpoints(wrong)


def test_a_client_stays_with_an_endpoint_until_it_fails() -> None:
    """Where it begins is random; a failure that somebody else has noticed before moves nothing."""
    endpoints = Endpoints(("a", "b", "c"), draw=lambda: 0.99)
    assert endpoints.current == "c"
    endpoints.failed("c")
    endpoints.failed("c")
    assert endpoints.current == "a"
    assert endpoints.after("c") == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 0},
        {"ttl": float("nan")},
        {"ttl": 1e9},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"encoding": "xml"},
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(wrong: dict[str, Any]) -> None:
    """A ValueError that names the argument."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        holdfast.connect("http://a", **wrong)


async def test_wrong_arguments_of_a_lock(kit: Any) -> None:
    """Likewise: no key, a negative wait, an impossible TTL."""
    client = kit.client()
    calls: tuple[Callable[[], object], ...] = (
        lambda: client.lock([]),
        lambda: client.lock("k", wait=-1),
        lambda: client.lock("k", ttl=-1),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"key|wait|ttl"):
            call()
    assert kit.cluster.seen == []


async def test_msgpack_does_the_same(kit: Any) -> None:
    """Every call in the other encoding; problems stay JSON."""
    client = kit.client(encoding="msgpack", token="secret-of-mine")  # noqa: S106
    assert await client.acquire_lock("k")
    with pytest.raises(holdfast.NotAcquired):
        async with kit.client(encoding="msgpack").lock("k"):
            pytest.fail("entered")
    assert await client.release_lock("k")
    headers = kit.cluster.calls("locks/acquire")[0].headers
    assert headers["Content-Type"] == "application/msgpack"
    assert headers["Authorization"] == "Bearer secret-of-mine"
    assert "secret-of-mine" not in repr(client._settings)


async def test_no_connection_means_not_sent(clock: Any) -> None:
    """A refused connection, a name that does not exist, an address that is none."""
    transport = HttpTransport(clock=clock)
    for endpoint in ("http://127.0.0.1:1", "http://[", "http://no-such-host.invalid"):
        with pytest.raises(NotSent):
            await transport.attempt(endpoint, CLUSTER, seconds=10.0)
    await transport.aclose()


@pytest.mark.parametrize("kind", ["text", "list", "garbage", "huge"])
async def test_an_answer_that_is_not_ours_is_no_answer(
    cluster: Any, clock: Any, step: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy's page, a wrong shape, an endless body: the outcome is not known from that."""
    from aiohttp import web

    monkeypatch.setattr("holdfast.transport.ANSWER_BYTES_MAX", 100)
    raw = {
        "text": web.Response(text="<html>"),
        "list": web.json_response([1]),
        "garbage": web.Response(body=b"{", content_type="application/json"),
        "huge": web.json_response({"a": "b" * 200}),
    }[kind]
    cluster.script("cluster", step(raw=raw))
    transport = HttpTransport(clock=clock)
    with pytest.raises(NoAnswer):
        await transport.attempt(cluster.urls[0], CLUSTER, seconds=10.0)
    await transport.aclose()


async def test_a_closed_transport_opens_no_connection(clock: Any) -> None:
    """Whatever still runs in the background hears that it is over."""
    transport = HttpTransport(clock=clock)
    await transport.aclose()
    with pytest.raises(holdfast.ClientClosed):
        await transport.attempt("http://127.0.0.1:1", CLUSTER, seconds=1.0)
