"""The operator's calls: what is refused, and with which code."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from holdfast_coordinator.http import start_http
from holdfast_coordinator.node_types import AdminRefused

REFUSALS = [
    ("no_leader", 503, "no_leader"),
    ("conflict", 409, "conflict"),
    ("unknown", 504, "unknown_outcome"),
]


async def post(
    node: Any, path: str, body: dict[str, Any] | None = None
) -> tuple[int, dict[str, Any]]:
    server = await start_http(node, "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{server.port}{path}"
            async with http.post(url, json=body) as response:
                return response.status, await response.json(content_type=None)
    finally:
        await server.close()


async def test_step_down_names_the_new_leader(make_node: Any) -> None:
    """Whichever node was asked."""
    assert await post(make_node(), "/v1/cluster/step-down") == (200, {"leader": "n2"})


async def test_replace_node_names_the_node(make_node: Any) -> None:
    """It is admitted when the answer comes."""
    body = {"node": "n2"}
    assert await post(make_node(), "/v1/cluster/replace-node", body) == (200, {"node": "n2"})


async def test_reload_names_the_epoch(make_node: Any) -> None:
    """Of the addresses that the node goes by now."""
    assert await post(make_node(), "/v1/cluster/reload") == (200, {"epoch": 7})


@pytest.mark.parametrize(("code", "status", "shown"), REFUSALS)
async def test_what_the_engine_does_not_do_is_a_problem(
    make_node: Any, code: Any, status: int, shown: str
) -> None:
    """With its sentence."""
    for path, body in (
        ("step-down", None),
        ("replace-node", {"node": "n2"}),
        ("reload", None),
    ):
        node = make_node()
        node.admin_refusal = AdminRefused(code, "because of this")
        answered, problem = await post(node, f"/v1/cluster/{path}", body)
        assert (answered, problem["code"], problem["detail"]) == (status, shown, "because of this")


async def test_a_node_that_is_not_of_the_cluster_is_named(make_node: Any) -> None:
    """And those that are."""
    status, problem = await post(make_node(), "/v1/cluster/replace-node", {"node": "n9"})
    assert (status, problem["field"]) == (400, "node")
    assert "n1, n2" in problem["detail"]
