"""What a client shows to a cluster that asks for identities, and how it knows the cluster.

    tls = holdfast.tls_context(ca_file="ca.pem", certificate_file="worker.pem", key_file="worker.key")
    async with holdfast.connect("https://n1.example:7601,https://n2.example:7601", tls=tls) as hf: ...

Rule: a node is always verified, by its host name; there is no way here to turn that off. A credential is in no repr. The files are
read once: a program that runs for longer than its certificate calls `tls.load_cert_chain(...)` again, and new connections show
the new one. It knows neither aiohttp nor the command line.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV_BEARER: Final = "HOLDFAST_BEARER"
ENV_BEARER_FILE: Final = "HOLDFAST_BEARER_FILE"
ENV_CA_FILE: Final = "HOLDFAST_CA_FILE"
ENV_CERTIFICATE_FILE: Final = "HOLDFAST_CERTIFICATE_FILE"
ENV_KEY_FILE: Final = "HOLDFAST_KEY_FILE"

BEARER_BYTES_MAX: Final = 4096
"""A file that is longer holds something else."""


class ConnectKeywords(TypedDict):
    """Those of `connect` and `connect_sync` that a `Credentials` gives."""

    token: str | None
    tls: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """Use: `holdfast.connect(endpoints, **credentials.keywords)`."""

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def keywords(self) -> ConnectKeywords:
        return {"token": self.token, "tls": self.tls}


def tls_context(
    *,
    ca_file: str | Path | None = None,
    certificate_file: str | Path | None = None,
    key_file: str | Path | None = None,
) -> ssl.SSLContext:
    """How to speak to `https://` endpoints: `connect(..., tls=tls_context(ca_file="ca.pem"))`. PEM files. `ca_file`: who signs the
    nodes' certificates, and nobody else is trusted; None: whom this machine trusts. `certificate_file` (with its chain, if there is
    one) and `key_file` (None: in the same file) are shown to the nodes. Raises `ValueError` that names the file."""
    if key_file is not None and certificate_file is None:
        raise ValueError("a key file is of no use without a certificate file")
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(ca_file)!r} is no file of CA certificates: {_why(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate_file is not None:
        key = certificate_file if key_file is None else key_file
        try:
            context.load_cert_chain(certificate_file, key, password=lambda: b"")
        except (OSError, ValueError) as error:
            detail = (
                f"{str(certificate_file)!r} with the key {str(key)!r} cannot be used: {_why(error)}"
            )
            raise ValueError(detail) from None
    return context


def credentials_of(
    *,
    token: str | None = None,
    token_file: str | Path | None = None,
    ca_file: str | Path | None = None,
    certificate_file: str | Path | None = None,
    key_file: str | Path | None = None,
) -> Credentials:
    """From files; what is None is not shown. Raises `ValueError`."""
    if token is not None and token_file is not None:
        raise ValueError(f"{ENV_BEARER} and a file with a bearer token are both given; give one")
    if token_file is not None:
        token = _read_token(Path(token_file))
    if (ca_file, certificate_file, key_file) == (None, None, None):
        return Credentials(_checked(token))
    tls = tls_context(ca_file=ca_file, certificate_file=certificate_file, key_file=key_file)
    return Credentials(_checked(token), tls)


def credentials_from_environment(environ: Mapping[str, str]) -> Credentials:
    """What `HOLDFAST_BEARER` or `HOLDFAST_BEARER_FILE`, `HOLDFAST_CA_FILE`, `HOLDFAST_CERTIFICATE_FILE` and `HOLDFAST_KEY_FILE`
    name in `environ` (such as `os.environ`). Raises `ValueError`."""
    return credentials_of(
        token=environ.get(ENV_BEARER),
        token_file=environ.get(ENV_BEARER_FILE),
        ca_file=environ.get(ENV_CA_FILE),
        certificate_file=environ.get(ENV_CERTIFICATE_FILE),
        key_file=environ.get(ENV_KEY_FILE),
    )


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(BEARER_BYTES_MAX + 1)
        if len(data) > BEARER_BYTES_MAX:
            raise ValueError("it is too long")
        return data.decode("ascii").strip()
    except (OSError, ValueError) as error:
        reason = _why(error) if isinstance(error, OSError) else "it is no text of a bearer token"
        raise ValueError(f"{str(path)!r} cannot be read: {reason}") from None


def _checked(token: str | None) -> str | None:
    """What would break the header that it goes into is refused without being shown."""
    if token is not None and (not token.isascii() or not token.isprintable() or not token.strip()):
        raise ValueError("the bearer token is empty, or has characters that none has")
    return token


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
