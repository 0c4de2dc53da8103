"""The certificate of the HTTP side: `http_tls` of cluster.yml, from files to one TLS context, tried out first.

Rule: as in `certificates.py`: what every caller would refuse is refused here, with the file and the reason; TLS 1.3 only, nothing
is resumed. Unlike there, callers are not ours: the certificate may be signed by anybody they trust, and theirs are asked for only
if `ca` says who signs them. Not known here: sockets, and which identity a certificate stands for.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast_coordinator.certificates import (
    FLIGHTS_MAX,
    CertificateError,
    Reread,
    add_ca,
    key_warnings,
    load_chain,
    names_of,
    read_key,
    read_pem,
    reason_of,
)

_SIDES: Final = (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """PEM files: what a node shows to callers (chain included), its key, and who signs the certificates of callers (None: no
    certificate is asked for). `demands`: who shows none is not even heard."""

    certificate: Path
    key: Path
    ca: Path | None = None
    demands: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.certificate, self.key, self.ca) if path is not None)


def load(files: ServerFiles) -> ssl.SSLContext:
    """Read the files and try them out. Raises `CertificateError`."""
    text = read_pem("certificate", files.certificate)
    read_key(files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    if files.ca is not None:
        add_ca(context, "ca", files.ca, read_pem("ca", files.ca))
        context.verify_mode = ssl.CERT_REQUIRED if files.demands else ssl.CERT_OPTIONAL
    add_ca(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "certificate", files.certificate, text)
    load_chain(context, files.certificate, files.key)
    _try_out(files, text)
    return context


def server_names(files: ServerFiles) -> frozenset[str]:
    """DNS names and IP addresses for which callers accept the certificate. Raises `CertificateError`."""
    return _try_out(files, read_pem("certificate", files.certificate))


def warnings(files: ServerFiles, host: str) -> list[str]:
    """What works, and is not as it should be. `host`: where callers find the node, as cluster.yml says."""
    found = key_warnings(files.key)
    names, host = server_names(files), host.lower()
    wildcard = f"*.{host.partition('.')[2]}"
    if host not in names and wildcard not in names:
        held = ", ".join(sorted(names)) or "none"
        found.append(
            f"{files.certificate}: does not name {host} (it holds {held}): callers who use this address refuse it"
        )
    return found


class ServerCertificate(Reread[ssl.SSLContext]):
    """The context for each new connection of a caller, from files that may be replaced."""

    def __init__(self, files: ServerFiles, node: str) -> None:
        """Raises `CertificateError`."""
        super().__init__(files.paths, lambda: load(files), f"node {node}, for HTTP,")


def _try_out(files: ServerFiles, text: str) -> frozenset[str]:
    """Shake hands with somebody who trusts exactly this certificate: its dates and its use are looked at, not who signed it."""
    acceptor_context, dialer_context = (ssl.SSLContext(side) for side in _SIDES)
    load_chain(acceptor_context, files.certificate, files.key)
    dialer_context.check_hostname = False
    dialer_context.verify_mode = ssl.CERT_REQUIRED
    dialer_context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    add_ca(dialer_context, "certificate", files.certificate, text)
    to_acceptor, to_dialer = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialer = dialer_context.wrap_bio(to_dialer, to_acceptor)
    acceptor = acceptor_context.wrap_bio(to_acceptor, to_dialer, server_side=True)
    for end in (dialer, acceptor) * FLIGHTS_MAX:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            detail = (
                f"would be refused by every caller: {error.verify_message}. It must be valid now by the clock of this "
                "machine, and allow serverAuth"
            )
            raise CertificateError("certificate", files.certificate, detail) from None
        except ssl.SSLError as error:
            raise CertificateError(
                "certificate", files.certificate, f"cannot be used: {reason_of(error)}"
            ) from None
    shown = dialer.getpeercert()
    return names_of(shown) | names_of(shown, "IP Address")
