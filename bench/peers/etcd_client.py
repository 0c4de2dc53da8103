"""etcd through grpc.aio, which of its Python clients was the fastest here, connected to the leader.

A worker's own key: put if absent under the worker's lease, delete if it is still that revision (two transactions; the revision is
the fence). A contended key: etcd's own lock service, where the server does the waiting. Leases are kept alive on one stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from measuring import Tape

from peers.loops import Pair, loops, renew_evenly

LEASE_SECONDS = 10
OPENED_AT_ONCE = 200
pb: Any = grpc.protos("peers/etcd.proto")  # found along sys.path


class Client:
    """The calls of one channel."""

    def __init__(self, port: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.txn = self._call("etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
        self.grant = self._call("etcdserverpb.Lease/LeaseGrant", pb.GrantRequest, pb.GrantResponse)
        self.revoke = self._call(
            "etcdserverpb.Lease/LeaseRevoke", pb.RevokeRequest, pb.RevokeResponse
        )
        self.lock = self._call("v3lockpb.Lock/Lock", pb.LockRequest, pb.LockResponse)
        self.unlock = self._call("v3lockpb.Lock/Unlock", pb.UnlockRequest, pb.UnlockResponse)
        self.status = self._call(
            "etcdserverpb.Maintenance/Status", pb.StatusRequest, pb.StatusResponse
        )
        self._keep_alive = self._channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            pb.KeepAliveRequest.SerializeToString,
            pb.KeepAliveResponse.FromString,
        )

    def _call(self, path: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(f"/{path}", request.SerializeToString, response.FromString)

    async def keep_alive(self, leases: list[int], ttl_seconds: float) -> None:
        """Renew each lease each third of its TTL, until cancelled. Raises RuntimeError if one has ended."""
        stream = self._keep_alive()

        async def watch() -> None:
            async for answer in stream:
                if answer.ttl <= 0:
                    raise RuntimeError("a lease was lost")

        async def renew(number: int) -> None:
            await stream.write(pb.KeepAliveRequest(id=leases[number]))

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            group.create_task(renew_evenly(len(leases), ttl_seconds / 3, renew))

    async def close(self) -> None:
        await self._channel.close()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    client = Client(port)
    try:
        yield client
    finally:
        await client.close()


async def leader_port(ports: list[int]) -> int:
    """The client port of the node that leads now. Waits for an election."""
    for _ in range(100):
        members: dict[int, int] = {}
        leaders: set[int] = set()
        for port in ports:
            async with connected(port) as client:
                seen = await client.status(pb.StatusRequest(), timeout=5, wait_for_ready=True)
                members[seen.header.member_id] = port
                leaders.add(seen.leader)
        if len(leaders) == 1 and (leader := leaders.pop()) in members:
            return members[leader]
        await asyncio.sleep(0.1)
    raise RuntimeError("etcd has no leader")


def own_key(client: Client, key: bytes, lease: int) -> Pair:
    revision = 0
    put = pb.Operation(put=pb.Put(key=key, value=b"owner", lease=lease))
    delete = pb.Operation(delete=pb.Delete(key=key))

    def is_revision(number: int) -> Any:
        return pb.Compare(result=0, target=1, key=key, create_revision=number)

    async def acquire() -> None:
        nonlocal revision
        done = await client.txn(pb.TxnRequest(compare=[is_revision(0)], success=[put]))
        if not done.succeeded:
            raise RuntimeError("somebody else holds a key that nobody else wants")
        revision = done.header.revision

    async def release() -> None:
        done = await client.txn(pb.TxnRequest(compare=[is_revision(revision)], success=[delete]))
        if not done.succeeded:
            raise RuntimeError("a lock was lost")

    return acquire, release


def shared_key(client: Client, name: bytes, lease: int) -> Pair:
    held = b""

    async def acquire() -> None:
        nonlocal held
        held = (await client.lock(pb.LockRequest(name=name, lease=lease))).key

    async def release() -> None:
        await client.unlock(pb.UnlockRequest(key=held))

    return acquire, release


async def drive(address: list[int], tape: Tape, *, contended: bool) -> None:
    async with connected(await leader_port(address)) as client:
        leases = await _grant(client, tape.workers, LEASE_SECONDS)
        keeping = asyncio.ensure_future(client.keep_alive(leases, LEASE_SECONDS))
        if contended:
            pairs = [shared_key(client, b"contended", lease) for lease in leases]
        else:
            pairs = [own_key(client, b"cycles/%d" % n, lease) for n, lease in enumerate(leases)]
        try:
            await loops(pairs, tape)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            for lease in leases:
                await client.revoke(pb.RevokeRequest(id=lease))


async def idle(
    address: list[int], sessions: int, ttl_seconds: float, ready: Callable[[], object]
) -> None:
    """One lease a session with one key under it, all kept alive on one stream: the least that it can cost."""
    async with connected(await leader_port(address)) as client:
        leases: list[int] = []
        ours = secrets.token_hex(4).encode()  # another try may have left keys
        for first in range(0, sessions, OPENED_AT_ONCE):
            # Long at first: opening thousands takes longer than the TTL. It plays no part in the cost of keeping them.
            some = await _grant(client, min(OPENED_AT_ONCE, sessions - first), 3600)
            keys = (b"idle/%s/%d" % (ours, number) for number in itertools.count(first))
            pairs = [own_key(client, key, lease) for key, lease in zip(keys, some, strict=False)]
            await asyncio.gather(*(acquire() for acquire, _ in pairs))
            leases += some
        ready()
        await client.keep_alive(leases, ttl_seconds)


async def _grant(client: Client, count: int, ttl_seconds: int) -> list[int]:
    made = await asyncio.gather(
        *(client.grant(pb.GrantRequest(ttl=ttl_seconds)) for _ in range(count))
    )
    return [each.id for each in made]
