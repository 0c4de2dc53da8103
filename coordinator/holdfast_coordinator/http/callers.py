"""Who is calling: from what came with a request to an identity.

Rule: a credential is looked at and forgotten: it is neither kept nor logged, and a refusal says nothing about it. A request that
brings a bearer token is that identity's or nobody's, whatever its certificate says: who shows a wrong credential is not guessed at.
A web page of another site is not let in, whoever's browser it runs in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web

from holdfast.wire import Code
from holdfast_coordinator.access import EVERYBODY, Access, Identity
from holdfast_coordinator.certificates import names_of
from holdfast_coordinator.http.audit import audited
from holdfast_coordinator.http.problems import Problem
from holdfast_coordinator.http.rights import CALLS, Scope, authorize, forbidden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.typedefs import Handler, Middleware

AUDIT: Final = web.RequestKey("audit", dict[str, Any])
BEARER_CHARS_MAX: Final = 512
"""Ours have 43. Whatever is longer is no credential of ours, and is not hashed."""

IDENTITY: Final = web.RequestKey("identity", Identity)
_SCHEME: Final = "bearer "


def identity_of(request: web.Request) -> Identity:
    """Whose request this is. Every handler of a call that asks for an identity may ask."""
    return request[IDENTITY]


def audit_of(request: web.Request) -> dict[str, Any]:
    """More members for the line of the log that this call will be. Of a call that is audited."""
    return request[AUDIT]


def call_of(request: web.Request) -> str | None:
    """The name of the call in `rights.CALLS`; None: there is no such path, or not with this method."""
    resource = request.match_info.route.resource
    if resource is None:
        return None
    method = "GET" if request.method == hdrs.METH_HEAD else request.method
    return f"{method} {resource.canonical}"


def guard(access: Access | None) -> Middleware:
    """The middleware before every handler: it says who calls, and refuses who may not. Raises `Problem`."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        call = call_of(request)
        if call is not None:
            refuse_other_sites(request.headers)
            identity = EVERYBODY if access is None else identify(access, request, call)
            request[IDENTITY] = identity
            need = CALLS.get(call)
            if need is not None and need.audited:
                with audited(identity, call) as request[AUDIT]:
                    authorize(identity, call)
                    return await handler(request)
            authorize(identity, call)
        return await handler(request)

    return guarded


def identify(access: Access, request: web.Request, call: str) -> Identity:
    """Raises `Problem` (401). A call that is open to everybody is made by nobody in particular."""
    need = CALLS.get(call)
    if need is not None and need.scope is Scope.NOBODY:
        return EVERYBODY
    if access.metrics_open and call == "GET /metrics":
        return EVERYBODY
    written = request.headers.getall(hdrs.AUTHORIZATION, [])
    transport = request.transport
    certificate = None if transport is None else transport.get_extra_info("peercert")
    identity = find(access, written, certificate)
    if identity is None:
        raise unauthenticated()
    return identity


def find(
    access: Access, authorization: list[str], certificate: Mapping[str, Any] | None
) -> Identity | None:
    """By the values of `Authorization`, or by the names in a certificate that TLS has verified."""
    if authorization:
        value = authorization[0]
        if len(authorization) > 1 or value[: len(_SCHEME)].lower() != _SCHEME:
            return None
        token = value[len(_SCHEME) :].strip()
        if not token or len(token) > BEARER_CHARS_MAX:
            return None
        return access.of_bearer(token.encode("utf-8", "surrogateescape"))
    if certificate:
        entries = certificate.get("subjectAltName", ())
        uris = [value for kind, value in entries if kind == "URI"]
        return access.of_certificate([*names_of(certificate), *uris])
    return None


def refuse_other_sites(headers: Mapping[str, str]) -> None:
    """A browser says where a page comes from that makes it send a request. Time 0: an operator's browser, on the machine of a node
    or with a certificate, opens a page of somebody else. Time 1: the page posts a force-release. It cannot read the answer; the
    lock is gone all the same. Pages of this very node may call. Raises `Problem` (403)."""
    origin = headers.get(hdrs.ORIGIN)
    if origin is not None and origin.partition("://")[2] != headers.get(hdrs.HOST):
        raise forbidden()


def unauthenticated() -> Problem:
    """Always the same words, whatever was shown."""
    detail = "show a known credential: Authorization: Bearer ..., or a client certificate"
    return Problem(
        Code.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": 'Bearer realm="holdfast"'}
    )
