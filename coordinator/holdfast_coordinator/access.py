"""`access` of cluster.yml: who may call, how they prove who they are, and what each may do with which keys.

Rule: pure, and the same on every node, so that any node decides about any call by itself: nothing of it is replicated, and nobody
is asked. A credential is never here, only its SHA-256 digest: whoever reads the file cannot call. What is not granted is refused;
there is no rule that forbids. Not known here: HTTP, and which call needs which right (`http/rights.py`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

IDENTITIES_MAX: Final = 1_000
"""One for each kind of worker, not for each worker; a file with more is made by a program that should make fewer."""

PREFIXES_MAX: Final = 64
"""Of one identity and right. A listing looks into each of them in turn."""

DIGESTS_MAX: Final = 4
"""Of one identity: the old credential and the new one while they are changed, and as many again for a mistake."""

NAMES_MAX: Final = 16
"""Certificate names of one identity."""

_INDEX_BYTES: Final = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAME_RULE: Final = "1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Right(StrEnum):
    """What an identity may do."""

    ACQUIRE = "acquire"
    """Hold locks: sessions, acquire, release, complete, checkpoint. A refusal tells who holds the key."""
    READ = "read"
    """See who holds what and what happened."""
    FORCE = "force"
    """Step in: end the hold of another, open a closed key."""
    ADMIN = "admin"
    """Change the cluster itself. Goes with no prefix."""


class AccessError(ValueError):
    """What is written cannot be used. `where` is the path below `access`; `str()` is the reason."""

    def __init__(self, where: str, detail: str) -> None:
        super().__init__(detail)
        self.where = where


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who may call. `rights`: to each right the prefixes under which it is granted, sorted, none a prefix of another; `""`
    is every key. `name` None: everybody, where no access is set up."""

    name: str | None
    rights: Mapping[Right, tuple[str, ...]]

    def has(self, right: Right) -> bool:
        """For some key at least."""
        return right in self.rights

    def may(self, right: Right, key: str) -> bool:
        return key.startswith(self.rights.get(right, ()))

    def may_all(self, right: Right) -> bool:
        """For every key there can be."""
        return self.rights.get(right) == ("",)

    def within(self, right: Right, prefix: str) -> tuple[str, ...]:
        """The prefixes that together hold exactly those keys under `prefix` for which the right is granted, in order."""
        granted = self.rights.get(right, ())
        if prefix.startswith(granted):
            return (prefix,)
        return tuple(each for each in granted if each.startswith(prefix))


EVERYBODY: Final = Identity(None, dict.fromkeys(Right, ("",)))
"""Where no access is set up, everybody may do everything."""


@dataclass(frozen=True, slots=True)
class Access:
    """The identities of a cluster, found by what a caller presents."""

    identities: tuple[Identity, ...]
    metrics_open: bool = False
    """`/metrics` asks for no identity."""
    by_digest: Mapping[bytes, tuple[tuple[bytes, Identity], ...]] = field(
        default_factory=dict, repr=False
    )
    by_certificate: Mapping[str, Identity] = field(default_factory=dict, repr=False)

    def of_bearer(self, token: bytes) -> Identity | None:
        """Whose credential this is."""
        digest = hashlib.sha256(token).digest()
        # How long this takes may tell the first bytes of a digest that is here. They are no help: a credential with a digest
        # that begins like that is as hard to guess as it was, and the digest is compared as a whole in constant time.
        found = None
        for known, identity in self.by_digest.get(digest[:_INDEX_BYTES], ()):
            if hmac.compare_digest(known, digest):
                found = identity
        return found

    def of_certificate(self, names: Iterable[str]) -> Identity | None:
        """Whose certificate has these names. None too if they are those of two identities: nobody knows who is meant."""
        found = {identity.name: identity for name in names if (identity := self._named(name))}
        return next(iter(found.values())) if len(found) == 1 else None

    def _named(self, name: str) -> Identity | None:
        return self.by_certificate.get(name)


# -- as written ------------------------------------------------------------------------------------------------------------


class GrantFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    rights: list[str]
    prefixes: list[str] | None = None


class IdentityFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: str
    bearer_sha256: list[str] = []
    certificate_names: list[str] = []
    may: list[GrantFile] = []


class AccessFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    identities: list[IdentityFile]
    metrics_open: bool = False


def checked(written: AccessFile, *, by_certificate: bool) -> Access:
    """`by_certificate`: callers are asked for certificates at all. Raises `AccessError`."""
    if not written.identities:
        raise AccessError(
            ".identities", "is empty: nobody could call; leave access out, or name somebody"
        )
    if len(written.identities) > IDENTITIES_MAX:
        raise AccessError(".identities", f"has more than {IDENTITIES_MAX}")
    identities: list[Identity] = []
    names: set[str] = set()
    digests: dict[bytes, Identity] = {}
    certificates: dict[str, Identity] = {}
    for number, each in enumerate(written.identities):
        where = f".identities[{number}]"
        identity = _identity(where, each)
        if each.name in names:
            raise AccessError(f"{where}.name", f"{each.name!r} is there already")
        names.add(each.name)
        identities.append(identity)
        _add_digests(f"{where}.bearer_sha256", each.bearer_sha256, identity, digests)
        _add_names(f"{where}.certificate_names", each.certificate_names, identity, certificates)
        if each.certificate_names and not by_certificate:
            detail = "are of no use without http_tls and its ca: nobody is asked for a certificate"
            raise AccessError(f"{where}.certificate_names", detail)
        if not each.bearer_sha256 and not each.certificate_names:
            detail = "can prove itself in no way; give it bearer_sha256 (holdfast credential new), or certificate_names"
            raise AccessError(where, f"{each.name!r} {detail}")
    index: dict[bytes, tuple[tuple[bytes, Identity], ...]] = {}
    for digest, identity in digests.items():
        index[digest[:_INDEX_BYTES]] = (*index.get(digest[:_INDEX_BYTES], ()), (digest, identity))
    return Access(tuple(identities), written.metrics_open, index, certificates)


def _identity(where: str, written: IdentityFile) -> Identity:
    if not _NAME.fullmatch(written.name):
        raise AccessError(f"{where}.name", f"{written.name!r} is not a name: {_NAME_RULE}")
    granted: dict[Right, set[str]] = {}
    for number, grant in enumerate(written.may):
        here = f"{where}.may[{number}]"
        if not grant.rights:
            raise AccessError(f"{here}.rights", f"is empty; it may hold {', '.join(Right)}")
        prefixes = _prefixes(here, grant)
        for name in grant.rights:
            if name not in list(Right):
                raise AccessError(f"{here}.rights", f"{name!r} is none of {', '.join(Right)}")
            right = Right(name)
            if right is Right.ADMIN and grant.prefixes is not None:
                detail = "admin is about the cluster, not about keys: grant it in an entry of its own, without prefixes"
                raise AccessError(f"{here}.prefixes", detail)
            granted.setdefault(right, set()).update(prefixes)
    rights = {right: _shortest(prefixes) for right, prefixes in granted.items()}
    for right, shortest in rights.items():
        if len(shortest) > PREFIXES_MAX:
            raise AccessError(f"{where}.may", f"{right} has more than {PREFIXES_MAX} prefixes")
    return Identity(written.name, rights)


def _prefixes(where: str, grant: GrantFile) -> list[str]:
    """No `prefixes`: every key. An empty list or text is a mistake rather than that."""
    if grant.prefixes is None:
        return [""]
    if not grant.prefixes:
        raise AccessError(f"{where}.prefixes", "is empty; leave it out to grant every key")
    for prefix in grant.prefixes:
        if not 1 <= len(prefix.encode()) <= wire.KEY_BYTES_MAX:
            detail = f"has one that is not of 1 to {wire.KEY_BYTES_MAX} bytes; leave prefixes out to grant every key"
            raise AccessError(f"{where}.prefixes", detail)
    return grant.prefixes


def _shortest(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Without those that another one holds."""
    kept: list[str] = []
    for prefix in sorted(prefixes):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


def _add_digests(
    where: str, written: list[str], identity: Identity, digests: dict[bytes, Identity]
) -> None:
    if len(written) > DIGESTS_MAX:
        raise AccessError(where, f"has more than {DIGESTS_MAX}")
    for text in written:
        if not _DIGEST.fullmatch(text):
            # What stands there may be the credential itself, by mistake: it is not shown.
            detail = "has something that is not a SHA-256 digest of 64 hexadecimal digits (holdfast credential new prints one)"
            raise AccessError(where, detail)
        if digests.setdefault(bytes.fromhex(text), identity) is not identity:
            raise AccessError(where, "has the credential of another identity")


def _add_names(
    where: str, written: list[str], identity: Identity, certificates: dict[str, Identity]
) -> None:
    if len(written) > NAMES_MAX:
        raise AccessError(where, f"has more than {NAMES_MAX}")
    for text in written:
        name = text if "://" in text else text.lower()
        if not name or "*" in name:
            raise AccessError(
                where, f"{text!r} is not a name; it is compared exactly, without wildcards"
            )
        if certificates.setdefault(name, identity) is not identity:
            raise AccessError(where, f"{text!r} is a name of another identity")
