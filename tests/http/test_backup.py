"""The call that sends a backup: whole, after everything acknowledged before it, one at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from holdfast_coordinator.machine import Machine, Refused
from holdfast_coordinator.node_types import AdminRefused
from holdfast_coordinator.raft import snapshots

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_is_sent_is_a_whole_file(caller: Any, node: Any, tmp_path: Path) -> None:
    """And holds what was acknowledged before."""
    await caller.acquire("k")
    reply = await caller.post("/v1/cluster/backup", None)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/octet-stream")
    assert reply.headers["Cache-Control"] == "no-store"
    (tmp_path / "backup").write_bytes(reply.raw)
    header, payload = snapshots.inspect(tmp_path / "backup")
    assert (header.cluster, header.info.index, header.info.term) == ("test", 3, 2)
    assert Machine.restore(payload).state_hash() == node.machine.state_hash()


@pytest.mark.parametrize(
    ("code", "status", "shown"),
    [("no_leader", 503, "no_leader"), ("conflict", 409, "conflict")],
)
async def test_a_node_that_has_none_to_give_says_why(
    caller: Any, node: Any, code: Any, status: int, shown: str
) -> None:
    node.admin_refusal = AdminRefused(code, "because of this")
    reply = await caller.post("/v1/cluster/backup", None)
    assert (reply.status, reply.code) == (status, shown)


async def test_without_a_majority_there_is_none(caller: Any, node: Any) -> None:
    """What a node alone knows may lack what was acknowledged."""
    node.read_refusal = Refused("no_leader", "nobody leads")
    reply = await caller.post("/v1/cluster/backup", None)
    assert (reply.status, reply.code) == (503, "no_leader")


async def test_one_is_sent_at_a_time(caller: Any, node: Any) -> None:
    """Who comes meanwhile may ask another node, or again."""
    began, go_on = asyncio.Event(), asyncio.Event()
    open_backup = node.open_backup

    async def slow() -> Any:
        began.set()
        await go_on.wait()
        return await open_backup()

    node.open_backup = slow
    first = asyncio.ensure_future(caller.post("/v1/cluster/backup", None))
    await began.wait()
    reply = await caller.post("/v1/cluster/backup", None)
    assert (reply.status, reply.code) == (503, "overloaded")
    go_on.set()
    assert (await first).status == 200
    assert (await caller.post("/v1/cluster/backup", None)).status == 200
