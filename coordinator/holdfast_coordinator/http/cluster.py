"""The calls about the node and its cluster, and the four that are not about locks at all: the document, the probes, the metrics."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from holdfast.wire import Code
from holdfast_coordinator.access import Right
from holdfast_coordinator.http import bodies, queries, views
from holdfast_coordinator.http.callers import audit_of, identity_of
from holdfast_coordinator.http.calls import Calls, answer, body_of, post, query
from holdfast_coordinator.http.problems import Problem, bad_request, of_admin_refusal
from holdfast_coordinator.http.report_views import node_report_view
from holdfast_coordinator.http.rights import forbidden
from holdfast_coordinator.node_types import AdminRefused

STATE_HASH_ITEMS_MAX: Final = 20_000
"""Sessions, holds, waiters and what is remembered of ended ones. Hashing takes about 5 microseconds for each, in
which the node does nothing else: 0.1 s, as long as a heartbeat."""


class ClusterCalls:
    def __init__(self, calls: Calls, openapi: bytes) -> None:
        self._calls = calls
        self._openapi = openapi

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/cluster", self.cluster),
            web.get("/v1/cluster/node", self.node_report),
            post("/v1/cluster/step-down", self.step_down),
            post("/v1/cluster/replace-node", self.replace_node),
            post("/v1/cluster/reload", self.reload),
            web.get("/v1/openapi.yaml", self.openapi),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def cluster(self, request: web.Request) -> web.Response:
        values = query(request, queries.CLUSTER)
        wants_hash = queries.wants_state_hash(values)
        if wants_hash and not identity_of(request).may_all(Right.ADMIN):
            raise forbidden()  # it holds up the node
        state_hash = self._state_hash() if wants_hash else None
        # No await between the two: the hash belongs to the applied index beside it.
        return answer(request, views.cluster_view(self._calls.node.status(), state_hash))

    async def node_report(self, request: web.Request) -> web.Response:
        query(request, queries.NONE)
        node = self._calls.node
        status, report, counts = node.status(), node.report(), node.machine.counts()
        view = node_report_view(status, report, counts, ready=node.is_ready, lag_ms=node.lag_ms)
        return answer(request, view)

    def _state_hash(self) -> bytes:
        machine = self._calls.node.machine
        counts = machine.counts()
        remembered = counts.sessions + counts.holds + counts.waiters
        if remembered + counts.previous + counts.ended_sessions > STATE_HASH_ITEMS_MAX:
            detail = f"the hash of more than {STATE_HASH_ITEMS_MAX} things would hold up the node; compare snapshots instead"
            raise Problem(Code.LIMIT_REACHED, detail)
        return machine.state_hash()

    async def step_down(self, request: web.Request) -> web.Response:
        query(request, queries.NONE)
        try:
            leader = await self._calls.node.step_down()
        except AdminRefused as refused:
            raise of_admin_refusal(refused) from None
        audit_of(request).update(leader=leader)
        return answer(request, views.SteppedDown(leader))

    async def replace_node(self, request: web.Request) -> web.Response:
        body = await body_of(request, bodies.decode_replace)
        names = [member.name for member in self._calls.node.status().nodes]
        if body.node not in names:
            raise bad_request(
                "node", f"is not a node of this cluster; its nodes: {', '.join(names)}"
            )
        audit_of(request).update(node=body.node)
        try:
            await self._calls.node.replace_node(body.node)
        except AdminRefused as refused:
            raise of_admin_refusal(refused) from None
        return answer(request, views.NodeReplaced(body.node))

    async def reload(self, request: web.Request) -> web.Response:
        query(request, queries.NONE)
        try:
            epoch = await self._calls.node.reload()
        except AdminRefused as refused:
            raise of_admin_refusal(refused) from None
        return answer(request, views.Reloaded(epoch))

    async def openapi(self, request: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/yaml")

    async def healthz(self, request: web.Request) -> web.Response:
        return answer(request, views.Alive(alive=True))

    async def readyz(self, request: web.Request) -> web.Response:
        if self._calls.node.is_ready:
            return answer(request, views.Ready(ready=True))
        if self._calls.node.status().leader is None:
            raise Problem(Code.NO_LEADER, "this node knows no leader")
        raise Problem(Code.OVERLOADED, "this node is behind with applying what is committed")

    async def metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get(hdrs.ACCEPT, "")
        body, content_type = self._calls.metrics.render(accept)
        return web.Response(body=body, headers={"Content-Type": content_type})
