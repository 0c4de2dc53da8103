"""What this version writes, kept for the tests of all later versions: tests/fixtures/formats/level-N.

    python tools/format_fixtures.py [--level N] [--out tests/fixtures/formats]

Run it once for a release that brings a new format level, and keep what it makes; never run it again for an older
level. (Level 1 was made by the last version that knew no other.) What it makes:

    entries.json    log entries with every operation in them, and the hash of the state that they lead to
    snapshot.bin    that state, as the machine writes it
    frames.json     what two nodes say to each other: hello, proof, verdict, each kind of message, forwarded operations
    cluster.tar.gz  the data directories of three real nodes that ran, took snapshots and were stopped while locks were held
    cluster.json    what was held there

Everything but the data directories is the same each time.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgpack

from holdfast_coordinator.local_cluster import LocalCluster
from holdfast_coordinator.machine import (
    Acquire,
    Barrier,
    Cancel,
    Checkpoint,
    CloseSession,
    Complete,
    Entry,
    ForceRelease,
    Limits,
    Machine,
    Malformed,
    OpenSession,
    Operation,
    Origin,
    Release,
    RenewSession,
    Resolve,
    Terms,
    Withdraw,
    decode_entry,
    encode_entry,
    encode_operation,
)
from holdfast_coordinator.machine.levels import HIGHEST
from holdfast_coordinator.raft import frames, messages
from holdfast_coordinator.raft.peers import Introduction

OUT: Final = Path(__file__).parents[1] / "tests" / "fixtures" / "formats"
CLUSTER: Final = "kept"
SECRET: Final = b"the secret of the kept frames"
DAY_MS: Final = 86_400_000
"""The longest lease: cluster time stands still while no node runs, so it lasts in the fixture for ever."""
HELD: Final = 40
"""Holds at the end, and some hundred entries before: a snapshot and a journal behind it."""
SETTINGS: Final = "snapshots: {after_entries: 60, keep_entries: 10}"
SNAPSHOT_WITHIN_SECONDS: Final = 60.0


def operations() -> list[Operation]:
    """Every kind, in an order in which each does something."""
    a, b, c = ("a" * 32, "b" * 32, "c" * 32)
    semaphore = Terms("shared", limit=3)
    in_doubt = Terms(on_unclean="refuse")
    delayed = Terms(on_unclean="delay", delay_ms=30_000)
    return [
        OpenSession(a, 10_000, "worker-a"),
        OpenSession(b, 60_000),
        OpenSession(c, 1_000, "worker-c"),
        Acquire(("payments/1", "payments/2"), a, request_id=1, owner="worker-a", context="t1"),
        Acquire(("payments/1",), b, wait_ms=20_000, request_id="order-7"),
        Acquire(("pool",), a, request_id=2, terms=semaphore),
        Acquire(("pool",), b, request_id=3, terms=semaphore),
        Acquire(("report",), b, request_id=4, terms=Terms("shared")),
        Acquire(("payments/3",), "d" * 32, ttl_ms=5_000, wait_ms=0, owner="nameless"),
        Acquire(("payments/3",), "e" * 32, ttl_ms=5_000, wait_ms=5_000),
        Acquire(("doubt",), c, request_id=1, terms=in_doubt),
        Acquire(("late",), c, request_id=2, terms=delayed),
        Checkpoint(a, 1, "psp_called", 1),
        RenewSession(a),
        Release(a, 1),
        Acquire(("done",), a, request_id=5, settled=1),
        Complete(a, 9, '{"captured":true}', DAY_MS),
        Acquire(("stuck",), b, request_id=6),
        ForceRelease("stuck", None, "the worker is gone", "anna"),
        Cancel(b, "order-7"),
        Withdraw(Origin("n2", 1, 2)),
        Barrier(),
        Malformed("not an operation"),
        CloseSession("f" * 32),
        Resolve("stuck", 10, "looked into it", "anna"),
        Acquire(("payments/9",), b, request_id=7, owner="größe", context="t2"),
    ]


def entries(level: int) -> list[bytes]:
    """A few operations each; then time passes, and sessions expire."""
    made, sequence, kinds = [], 0, operations()
    for begin in range(0, len(kinds), 4):
        addressed = []
        for operation in kinds[begin : begin + 4]:
            sequence += 1
            addressed.append((Origin("n1", 1, sequence), operation))
        made.append(encode_entry(_entry(level, 7, 25, tuple(addressed), 1_700_000_000_000 + begin)))
    made += [encode_entry(_entry(level, 7, 500)) for _ in range(6)]
    return made


def _entry(level: int, term: int, elapsed_ms: int, addressed: Any = (), wall_ms: int = 0) -> Entry:
    return Entry(term, elapsed_ms, addressed, wall_ms, level=level)


def machine_after(made: list[bytes]) -> Machine:
    machine = Machine(Limits())
    for each in made:
        machine.apply(decode_entry(each))
    return machine


def peer_frames() -> dict[str, str]:
    """Of a connection on which n1 dials n2, and of every kind of message."""
    dialer = frames.hello(CLUSTER, "n1", "n2", b"\1" * 32, Introduction(b"d" * 16, b"l" * 16))
    acceptor = frames.hello(CLUSTER, "n2", "n1", b"\2" * 32, Introduction(b"D" * 16, b"l" * 16))
    key = frames.proof(SECRET, b"dialer key", dialer, acceptor)
    forwarded = msgpack.packb((1, 3, 17, [encode_operation(each) for each in operations()]))
    said: list[messages.Message] = [
        messages.Append(
            3, 9, 8, 2, 77, ((3, messages.ENTRY_NO_OP), (3, messages.ENTRY_OWN + b"x"))
        ),
        messages.Ack(3, 10, True, False, 77),
        messages.VoteRequest(4, 9, 3, True),
        messages.Vote(4),
        messages.TermNotice(5),
        messages.PreVoteRequest(5, 9, 3),
        messages.PreVote(5),
        messages.TimeoutNow(5),
        messages.HandOverRequest(5),
        messages.AdmitRequest("n3", "0f" * 16),
        messages.Admissions((("n3", 12, "0f" * 16),)),
        messages.SnapshotOffer(5, 78, 100, 4, 1000, b"h" * 32),
        messages.SnapshotChunk(5, 79, 100, 0, b"piece"),
        messages.SnapshotAnswer(5, 79, 100, 5, False),
    ]
    packed = [msgpack.packb(messages.encode(each)) for each in said]
    verdict = msgpack.packb([frames.KIND_VERDICT, "accepted", 0])
    made = {
        "hello of the dialer": dialer,
        "hello of the acceptor": acceptor,
        "proof of the acceptor": frames.proof(SECRET, b"acceptor", dialer, acceptor),
        "verdict": frames.pack_frame(key, frames.VERDICT_SEQUENCE, verdict),
        "messages": frames.pack_frame(key, 0, frames.pack_body(frames.KIND_RAFT, packed)),
        "forwarded operations": frames.pack_frame(
            key, 1, msgpack.packb([frames.KIND_APPLICATION, [forwarded]])
        ),
    }
    return {name: data.hex() for name, data in made.items()}


class KeptCluster(LocalCluster):
    """Its name is part of its files, so it is always the same."""

    def _config(self) -> str:
        lines = super()._config().splitlines()
        return "\n".join([f"cluster: {CLUSTER}", *lines[1:]]) + "\n"


async def data_directories(directory: Path, level: int) -> dict[str, Any]:
    """Run three nodes, hold locks, and stop them. What was held."""
    settings = f"{SETTINGS}\nformat_level_max: {level}"
    async with (
        KeptCluster(directory, settings=settings) as cluster,
        aiohttp.ClientSession() as http,
    ):

        async def post(path: str, body: dict[str, Any], node: str = "n1") -> dict[str, Any]:
            async with http.post(f"{cluster.url(node)}/v1/{path}", json=body) as response:
                answer: dict[str, Any] = await response.json(content_type=None)
                if response.status >= 300:
                    raise RuntimeError(f"{path}: {answer}")
                return answer

        session = (await post("sessions", {"ttl_ms": DAY_MS, "owner": "keeper"}))["session"]
        held: dict[str, int] = {}
        for number in range(3 * HELD):
            key = f"kept/{number}"
            node = cluster.names[number % 3]
            grant = await post("locks/acquire", {"key": key, "session": session}, node)
            if number % 3 == 0:
                held[key] = grant["token"]
            else:
                await post("locks/release", {"session": session, "token": grant["token"]}, node)
        note = {"session": session, "token": held["kept/0"], "value": "psp_called"}
        await post("locks/checkpoint", note)
        async with asyncio.timeout(SNAPSHOT_WITHIN_SECONDS):
            while not all(_has_snapshot(cluster, name) for name in cluster.names):
                await post("sessions/renew", {"session": session})
        return {"session": session, "held": held, "checkpoint": {"kept/0": "psp_called"}}


def _has_snapshot(cluster: LocalCluster, name: str) -> bool:
    return any(
        path.name.startswith("snapshot-") and "." not in path.name
        for path in cluster.data_dir(name).iterdir()
    )


def pack_directories(directory: Path) -> bytes:
    """Without what belongs to a running process."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path in sorted((directory / "data").rglob("*")):
            if path.is_file() and path.name != "lock":
                info = tarfile.TarInfo(str(path.relative_to(directory)))
                data = path.read_bytes()
                info.size, info.mode = len(data), 0o600
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write(level: int, out: Path) -> None:
    directory = out / f"level-{level}"
    directory.mkdir(parents=True)
    made = entries(level)
    machine = machine_after(made)
    told = {"entries": [each.hex() for each in made], "state_hash": machine.state_hash().hex()}
    _write_json(directory / "entries.json", told)
    (directory / "snapshot.bin").write_bytes(machine.snapshot())
    _write_json(directory / "frames.json", peer_frames())
    with tempfile.TemporaryDirectory() as name:
        held = asyncio.run(data_directories(Path(name), level))
        (directory / "cluster.tar.gz").write_bytes(pack_directories(Path(name)))
    _write_json(directory / "cluster.json", held)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", type=int, default=HIGHEST)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    write(options.level, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
