"""etcd as `failover.py` asks it: a caller at each node, through grpc.aio, under one lease that outlives the measurement.

Rule: a caller gives up a call after CALL_SECONDS_MAX and asks anew, for another key. Without that a call that a follower has passed
on to a leader that died waits for seconds; with it etcd shows what it can.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from peers import etcd
from peers.etcd_client import Client, leader_port, own_key, pb

CALL_SECONDS_MAX = 0.25
LEASE_SECONDS = 3600
LEADER_SECONDS_MAX = 30.0


class Etcd:
    """See `failover.Service`. A node is known by its client port."""

    def __init__(self, server: etcd.Server, directory: Path) -> None:
        self.nodes: list[str] = []
        self._server = server
        self._directory = directory
        self._clients: dict[str, Client] = {}
        self._number = 0
        self._lease = 0

    async def __aenter__(self) -> Self:
        self._directory.mkdir()
        try:
            await self._server.start(self._directory)
            self.nodes = [str(port) for port in self._server.address]
            for node in self.nodes:
                self._clients[node] = Client(int(node))
            leader = self._clients[await self.leader()]
            self._lease = (await leader.grant(pb.GrantRequest(ttl=LEASE_SECONDS))).id
        except BaseException:
            await self._server.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            await client.close()
        await self._server.stop()

    async def grant(self, node: str) -> bool:
        self._number += 1
        key = b"failover/%d" % self._number
        acquire, release = own_key(self._clients[node], key, self._lease)
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                await acquire()
                await release()
        except (TimeoutError, grpc.aio.AioRpcError):
            return False
        return True

    async def leader(self) -> str:
        async with asyncio.timeout(LEADER_SECONDS_MAX):
            while True:
                try:
                    return str(await leader_port(self._server.address))
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)

    def signal(self, node: str, number: signal.Signals) -> None:
        self._server.signal(int(node), number)

    async def start_again(self, node: str) -> None:
        await self._server.start_again(int(node))
        # A channel waits longer and longer before it connects anew.
        await self._clients[node].close()
        self._clients[node] = Client(int(node))
