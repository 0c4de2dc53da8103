"""What happened: the history of a key, and the trail as a file that can be checked without the cluster."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from holdfast_coordinator.http import history
from holdfast_coordinator.http.export import export
from holdfast_coordinator.machine import Limits, Refused
from holdfast_coordinator.machine.limits import TRAIL_BLOCK_RECORDS
from holdfast_coordinator.machine.trail import GENESIS

from .openapi import validator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Caller, FakeNode

ALICE = "alice-0123456789abcdef"
BY_OPS = {"reason": "its machine burned", "operator": "ops@example.org"}


@pytest.fixture
async def worker(caller: Caller) -> Caller:
    await caller.open(ALICE, 600_000)
    return caller


async def _cycle(caller: Caller, key: str, token: int) -> None:
    assert (await caller.acquire(key, session=ALICE)).body["token"] == token
    await caller.post("/v1/locks/release", {"session": ALICE, "token": token})


async def test_the_history_says_who_held_a_key_when_and_how_it_ended(worker, node):
    """With the time of day for people, and whoever stepped in by name."""
    await worker.acquire("k", session=ALICE, owner="worker 7", context="task 3")
    node.advance(1_500)
    node.wall_ms += 60_000
    await worker.post("/v1/locks/force-release", {"key": "k", **BY_OPS})
    await _cycle(worker, "other", 3)
    page = await worker.get("/v1/history", key="k")
    assert page.status == 200
    common = {"token": 1, "keys": ["k"], "owner": "worker 7", "context": "task 3"}
    assert page.body == {
        "key": "k",
        "records": [
            {
                "revision": 1,
                "kind": "granted",
                "cluster_ms": 0,
                "wall_ms": 1_700_000_000_000,
                **common,
                "mode": "exclusive",
                "waited_ms": 0,
            },
            {
                "revision": 2,
                "kind": "ended",
                "cluster_ms": 1_500,
                "wall_ms": 1_700_000_060_000,
                **common,
                "mode": "exclusive",
                "held_ms": 1_500,
                "ended": "forced",
                **BY_OPS,
            },
        ],
        "next": None,
        "first_revision": 1,
        "last_revision": 4,
    }
    for record in page.body["records"]:
        validator("Record").validate(record)


async def test_a_history_is_paged_and_bounded_by_the_time_of_day(worker, node):
    """Both ends are inclusive; GET and POST read the same."""
    for token in range(1, 5):
        node.wall_ms = token * 1_000
        await _cycle(worker, "k", token)
    first = (await worker.get("/v1/history", key="k", limit=3)).body
    assert [record["revision"] for record in first["records"]] == [1, 2, 3]
    assert first["next"] == 3
    rest = (await worker.get("/v1/history", key="k", limit=9, after=3)).body
    assert [record["revision"] for record in rest["records"]] == [4, 5, 6, 7, 8]
    assert rest["next"] is None
    between = {"key": "k", "from_ms": 2_000, "to_ms": 3_000}
    bounded = (await worker.get("/v1/history", **between)).body
    assert [record["token"] for record in bounded["records"]] == [2, 2, 3, 3]
    assert (await worker.post("/v1/history/read", between)).body == bounded
    local = (await worker.get("/v1/history", key="none", consistency="local")).body
    assert (local["records"], local["consistency"], local["age_ms"]) == ([], "local", 7)


async def test_a_long_search_lets_others_in(worker, node, monkeypatch):
    """And finds the same, also what comes after the step in which nothing matched."""
    monkeypatch.setattr("holdfast_coordinator.http.history.STEP_MAX", 4)
    for token in range(1, 11):
        node.wall_ms = token * 1_000
        await _cycle(worker, "k", token)
    found = (await worker.get("/v1/history", key="k", from_ms=8_000, limit=3)).body
    assert [record["revision"] for record in found["records"]] == [15, 16, 17]
    assert found["next"] == 17
    rest = (await worker.get("/v1/history", key="k", from_ms=8_000, limit=3, after=17)).body
    assert [record["revision"] for record in rest["records"]] == [18, 19, 20]
    assert rest["next"] is None


async def test_what_was_dropped_from_the_trail_is_said_to_be(serve, make_node):
    """A history without its beginning must not look like one that has it."""
    limits = Limits(trail_blocks_max=1)
    caller = await serve(make_node(limits), machine_limits=limits)
    await caller.open(ALICE, 600_000)
    for token in range(1, TRAIL_BLOCK_RECORDS + 2):
        await _cycle(caller, "k", token)
    page = (await caller.get("/v1/history", key="k", limit=1)).body
    assert page["first_revision"] == page["records"][0]["revision"] == TRAIL_BLOCK_RECORDS + 1
    gone = await caller.get("/v1/history/export", after=1)
    assert (gone.status, gone.code) == (410, "no_longer_kept")
    assert gone.body["first_revision"] == TRAIL_BLOCK_RECORDS + 1
    lines = _lines((await caller.get("/v1/history/export")).raw)
    assert lines[0]["first_revision"] == TRAIL_BLOCK_RECORDS + 1
    assert lines[1]["before"] != GENESIS.hex()
    assert _check(lines) == TRAIL_BLOCK_RECORDS + 2


# -- the export ------------------------------------------------------------------------------------------------------------

MEMBERS = [name for name in validator("Record").schema["properties"] if name != "revision"]


def _lines(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.decode().splitlines()]


def _packed(records: list[dict[str, Any]]) -> bytes:
    """As `openapi.yaml` says it, written without looking at the machine."""
    rows = []
    for record in records:
        row = [record.get(name) for name in MEMBERS]
        while row[-1] is None:
            row.pop()
        rows.append(row)
    packed: bytes = msgpack.packb(rows)
    return packed


def _check(lines: list[dict[str, Any]]) -> int:
    """Recompute every hash; how many records the file has."""
    first, last = lines[0], lines[-1]
    assert (first["line"], first["format"], last["line"]) == ("trail", 1, "end")
    revision, before, records, position = first["first_revision"], None, 0, 1
    while lines[position]["line"] == "block":
        block = lines[position]
        rows = lines[position + 1 : position + 1 + block["count"]]
        assert [row["revision"] for row in rows] == list(range(revision, revision + len(rows)))
        assert block["first"] == revision
        assert before in (None, block["before"])
        text = bytes.fromhex(block["before"]) + revision.to_bytes(8, "big") + _packed(rows)
        assert block["hash"] == hashlib.blake2b(text, digest_size=32).hexdigest()
        before, revision = block["hash"], revision + len(rows)
        records += len(rows)
        position += 1 + len(rows)
    opened = lines[position]
    assert (opened["line"], opened["first"]) == ("open", revision)
    assert opened["before"] == first["head"] == (before or opened["before"])
    assert len(lines) == position + 1 + opened["count"] + 1
    assert last["records"] == records + opened["count"]
    return int(last["records"])


async def _many(caller: Caller, node: FakeNode) -> None:
    """Two full blocks and a bit, with every member in use somewhere."""
    await caller.acquire(
        "ünï/\U0001f4b6", session=ALICE, owner="ö", context="c", mode="shared", limit=2
    )
    await caller.acquire("f", session=ALICE)
    await caller.post("/v1/locks/force-release", {"key": "f", **BY_OPS})
    await caller.post("/v1/locks/resolve", {"key": "f", "token": 2, **BY_OPS})
    for token in range(4, TRAIL_BLOCK_RECORDS + 4):
        await _cycle(caller, f"k/{token}", token)


async def test_an_export_can_be_checked_without_the_cluster(worker, node):
    """Every hash follows from the lines that people read; a change of any of them is found."""
    await _many(worker, node)
    reply = await worker.get("/v1/history/export")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/jsonl")
    lines = _lines(reply.raw)
    trail = node.machine.trail
    assert lines[0]["cluster"] == "test"
    assert lines[1]["before"] == GENESIS.hex()
    assert _check(lines) == lines[0]["last_revision"] == trail.last_revision
    assert [line["hash"] for line in lines if line.get("line") == "block"] == [
        block.hash.hex() for block in trail.blocks
    ]
    assert len(trail.blocks) == 2
    for line in lines:
        if "line" not in line:
            validator("Record").validate(line)
    lines[4]["owner"] = "somebody else"
    with pytest.raises(AssertionError):
        _check(lines)


async def test_an_export_continues_another_one(worker, node):
    """The chain runs through both files; what the first had of the open block comes again in a full one."""
    await _cycle(worker, "k", 1)
    first = _lines((await worker.get("/v1/history/export")).raw)
    assert _check(first) == 2
    for token in range(2, TRAIL_BLOCK_RECORDS + 1):
        await _cycle(worker, "k", token)
    whole = _lines((await worker.get("/v1/history/export")).raw)
    second = _lines((await worker.get("/v1/history/export", after=TRAIL_BLOCK_RECORDS)).raw)
    assert second[0]["first_revision"] == TRAIL_BLOCK_RECORDS + 1
    assert second[1]["before"] == whole[1]["hash"]
    assert _check(second) == TRAIL_BLOCK_RECORDS
    nothing = _lines((await worker.get("/v1/history/export", after=2 * TRAIL_BLOCK_RECORDS)).raw)
    assert [line["line"] for line in nothing] == ["trail", "open", "end"]
    assert _check(nothing) == 0


async def test_what_is_dropped_while_somebody_reads_an_export_is_sent_all_the_same(worker, node):
    """The file is the trail of one moment."""
    await _many(worker, node)
    pieces = export(node.machine.trail, "test", 0)
    data = next(pieces)
    last = node.machine.trail.last_revision
    node.machine.trail.blocks_max = 1
    for token in range(TRAIL_BLOCK_RECORDS + 4, 2 * TRAIL_BLOCK_RECORDS + 8):
        await _cycle(worker, "k", token)
    assert node.machine.trail.first_revision > last
    assert _check(_lines(data + b"".join(pieces))) == last


async def test_an_export_leaves_the_loop_to_others_between_its_blocks(worker, node, monkeypatch):
    """A heartbeat that waits for a whole trail is late, however fast the reader is."""
    await _many(worker, node)
    turns, turns_at_piece = 0, []

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def told(*arguments: Any) -> Iterator[bytes]:
        for piece in export(*arguments):
            turns_at_piece.append(turns)
            yield piece

    monkeypatch.setattr(history, "export", told)
    counting = asyncio.create_task(count())
    try:
        await worker.get("/v1/history/export")
    finally:
        counting.cancel()
    assert len(turns_at_piece) == 4
    assert turns_at_piece == sorted(set(turns_at_piece))


async def test_an_export_needs_a_leader(worker, node):
    """It says that it is everything up to now, so it has to know."""
    node.read_refusal = Refused("no_leader", "there is none")
    refused = await worker.get("/v1/history/export")
    assert (refused.status, refused.code) == (503, "no_leader")
