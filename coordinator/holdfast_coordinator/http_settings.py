"""`http_tls` and `insecure` of cluster.yml: how the HTTP side is protected on the way, and how an operator says that it is not.

Rule: pure; the files themselves are `server_certificates`'. Not known here: who may call (`access`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from holdfast_coordinator.server_certificates import ServerFiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INSECURE: Final = "whoever reaches these addresses may do everything"
"""What `insecure` has to say, word for word: nobody writes it by accident, and everybody who reads the file understands it."""

NODE_PLACEHOLDER: Final = "{node}"
"""In a file name: the node's name. All nodes read one file, and each has a certificate of its own."""


class HttpSettingError(ValueError):
    """`name` of the setting; `str()` is the reason."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


class HttpTlsFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    certificate: str
    key: str
    ca: str | None = None
    require_client_certificate: bool = False


class _Reachable(Protocol):
    @property
    def is_loopback(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class HttpTls:
    """PEM files, as written; relative ones are below `directory`, the one of cluster.yml."""

    directory: Path
    written: HttpTlsFile

    def of(self, node: str) -> ServerFiles:
        """Those of one node."""
        written = self.written
        certificate, key = (self._path(name, node) for name in (written.certificate, written.key))
        ca = None if written.ca is None else self._path(written.ca, node)
        return ServerFiles(certificate, key, ca, written.require_client_certificate)

    def _path(self, name: str, node: str) -> Path:
        return self.directory / name.replace(NODE_PLACEHOLDER, node)


def tls(directory: Path, written: HttpTlsFile) -> HttpTls:
    """Raises `HttpSettingError`."""
    for name in ("certificate", "key", "ca"):
        value: str | None = getattr(written, name)
        if value is not None and (not value or "\0" in value):
            raise HttpSettingError(name, f"{value!r} is not a file name")
    if written.require_client_certificate and written.ca is None:
        detail = "needs ca, the file of those who sign the certificates of callers"
        raise HttpSettingError("require_client_certificate", detail)
    return HttpTls(directory, written)


def warnings(insecure: bool, tls: bool, access: bool, addresses: Sequence[_Reachable]) -> list[str]:
    """What works, and should not be left so."""
    reachable = not all(address.is_loopback for address in addresses)
    found = []
    if insecure:
        found.append(f"insecure is set: {INSECURE}")
    if reachable and access and not tls:
        found.append(
            "bearer tokens and keys can be read on the way to the nodes: set http_tls, unless something else encrypts it"
        )
    return found
