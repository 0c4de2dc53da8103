"""Identities for tests. The credential of each is `credential of NAME`."""

from __future__ import annotations

import hashlib
from typing import Any

from holdfast_coordinator import access
from holdfast_coordinator.access import Access, GrantFile, IdentityFile

EVERYTHING = [GrantFile(["acquire", "read", "force"]), GrantFile(["admin"])]


def credential(name: str) -> str:
    return f"credential of {name}"


def bearer(name: str) -> dict[str, str]:
    """The header that says who calls."""
    return {"Authorization": f"Bearer {credential(name)}"}


def identity(name: str, *may: GrantFile, **more: Any) -> IdentityFile:
    digest = hashlib.sha256(credential(name).encode()).hexdigest()
    return IdentityFile(name, **{"bearer_sha256": [digest], "may": list(may)} | more)


def access_of(*identities: IdentityFile, **more: Any) -> Access:
    written = access.AccessFile(list(identities), **more)
    return access.checked(written, by_certificate=True)


def grant(right: str, *prefixes: str) -> GrantFile:
    """Under these prefixes; none: for every key."""
    return GrantFile([right], list(prefixes) or None)
