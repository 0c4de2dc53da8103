"""A node's certificate: from three files to TLS contexts, tried out as the other side will try them.

Rule: what the other nodes would refuse is refused here first, with the file, the reason, and what to do. Both sides show a
certificate, and its names are compared by whoever asks (`names_of`), exactly: no wildcards, no common name. Only TLS 1.3: both ends
are ours. Nothing is resumed, so that every connection shows its certificate again.

Not known here: sockets, and who asks. That a certificate has ended is told by OpenSSL, by the wall clock of the machine.
"""

from __future__ import annotations

import logging
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PEM_BYTES_MAX: Final = 1 << 20
"""A certificate with its chain is a few kilobytes; a larger file is some other file."""

FLIGHTS_MAX: Final = 4
"""Messages in both directions of a handshake of TLS 1.3: hello, answer, certificate; one more for what follows."""

_EXPIRED, _NOT_YET_VALID = 10, 9
_UNKNOWN_CA = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's verification codes (`X509_V_ERR_...`), which have not changed for decades."""

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files: whom a node trusts, what it shows (chain included), and the key of that, without a passphrase."""

    ca: Path
    certificate: Path
    key: Path


class CertificateError(Exception):
    """The files cannot be used. `field` is `ca`, `certificate` or `key`; `str()` says which file, why, and what to do."""

    def __init__(self, field: str, file: Path, detail: str) -> None:
        self.field = field
        self.file = file
        super().__init__(f"{str(file)!r} {detail}")


@dataclass(frozen=True, slots=True)
class Contexts:
    """For the two ends of a connection. Both demand a certificate of the other."""

    acceptor: ssl.SSLContext
    dialer: ssl.SSLContext


def load(files: CertificateFiles, node: str) -> Contexts:
    """Read the files and check that they are good for `node`. Raises `CertificateError`."""
    texts = {name: read_pem(name, getattr(files, name)) for name in ("ca", "certificate")}
    read_key(files.key)
    contexts = Contexts(
        _context(ssl.PROTOCOL_TLS_SERVER, files, texts),
        _context(ssl.PROTOCOL_TLS_CLIENT, files, texts),
    )
    names = _try_out(contexts, files)
    if node.lower() not in names:
        held = ", ".join(sorted(names)) or "none"
        detail = (
            f"does not name node {node}: its subjectAltName must hold DNS:{node} (it holds {held}); "
            "the other nodes refuse it"
        )
        raise CertificateError("certificate", files.certificate, detail)
    return contexts


def names_of(certificate: Mapping[str, Any] | None, kind: str = "DNS") -> frozenset[str]:
    """The DNS names of a certificate that was verified (as `getpeercert` gives it), in lower case; or its names of another kind."""
    entries = (certificate or {}).get("subjectAltName", ())
    return frozenset(value.lower() for each, value in entries if each == kind)


def why_refused(error: ssl.SSLCertVerificationError) -> str:
    """One of a few fixed reasons."""
    if error.verify_code in _UNKNOWN_CA:
        return "certificate of an unknown CA"
    if error.verify_code == _EXPIRED:
        return "certificate expired"
    if error.verify_code == _NOT_YET_VALID:
        return "certificate not yet valid"
    return "certificate refused"


def warnings(files: CertificateFiles) -> list[str]:
    """What works, and is not as it should be."""
    return key_warnings(files.key)


def key_warnings(key: Path) -> list[str]:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError:
        return []  # `load` says so
    if mode & stat.S_IROTH:
        return [f"{key}: every user of this machine can read the key (chmod 600)"]
    return []


class Reread(Generic[T]):
    """What was made of some files, for each new connection. Files that were replaced meanwhile are read again; if they cannot be
    used, what there was before stays, and the log says so once."""

    def __init__(self, paths: Sequence[Path], load: Callable[[], T], whose: str) -> None:
        """`whose`: for the log. Raises `CertificateError`."""
        self._paths = tuple(paths)
        self._load = load
        self._whose = whose
        self._stamp = _stamp(self._paths)
        self._made = load()

    def contexts(self) -> T:
        """Costs a call of stat for each file, unless something has changed."""
        stamp = _stamp(self._paths)
        if stamp != self._stamp:
            # First the stamp, then the files: should they change in between, the next connection reads them again.
            self._stamp = stamp
            try:
                self._made = self._load()
            except CertificateError as error:
                # No traceback: the sentence is for an operator.
                log.error("%s; %s keeps its former certificate", error, self._whose)  # noqa: TRY400
            else:
                log.warning("%s has read its new certificate", self._whose)
        return self._made


class Certificates(Reread[Contexts]):
    """The contexts for each new connection between nodes."""

    def __init__(self, files: CertificateFiles, node: str) -> None:
        """Raises `CertificateError`."""
        paths = (files.ca, files.certificate, files.key)
        super().__init__(paths, lambda: load(files, node), f"node {node}")


def _stamp(paths: Sequence[Path]) -> tuple[tuple[int, int, int] | None, ...]:
    """Changes when a file is written or replaced."""
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_pem(field: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(PEM_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CertificateError(field, path, f"cannot be read: {reason}") from None
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if len(data) > PEM_BYTES_MAX or "-----BEGIN " not in text:
        raise CertificateError(field, path, "is not a PEM file")
    return text


def read_key(path: Path) -> None:
    """Check that there is a private key, without a passphrase. Raises `CertificateError`."""
    text = read_pem("key", path)
    if "PRIVATE KEY-----" not in text:
        raise CertificateError("key", path, "holds no private key in PEM form")
    if "ENCRYPTED" in text:
        detail = "is protected by a passphrase, which nobody types at a start; give a key without one (chmod 600)"
        raise CertificateError("key", path, detail)


def _context(protocol: int, files: CertificateFiles, texts: dict[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Names of nodes are no host names (they may hold `_`, or look like an address), and wildcards must not count:
    # `names_of` is compared instead, by both sides, before anything is said.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    # Only this CA: whatever the machine trusts otherwise is none of the cluster's.
    add_ca(context, "ca", files.ca, texts["ca"])
    # Into a context of its own: this one must not trust what it shows.
    add_ca(ssl.SSLContext(protocol), "certificate", files.certificate, texts["certificate"])
    load_chain(context, files.certificate, files.key)
    return context


def load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """What `context` shows. Raises `CertificateError`."""
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            detail = f"is not the key of {str(certificate)!r}; give the pair that was made together"
        else:
            detail = f"cannot be used: {reason_of(error)}"
        raise CertificateError("key", key, detail) from None
    except OSError as error:  # replaced between the two readings
        raise CertificateError("key", key, f"cannot be read: {error.strerror}") from None


def add_ca(context: ssl.SSLContext, field: str, path: Path, text: str) -> None:
    """Whom `context` trusts. Raises `CertificateError`."""
    try:
        context.load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        detail = f"holds no certificate in PEM form: {reason_of(error)}"
        raise CertificateError(field, path, detail) from None


def _try_out(contexts: Contexts, files: CertificateFiles) -> frozenset[str]:
    """Shake hands with ourselves, in memory: each end verifies what the other will show. The names in it."""
    to_acceptor, to_dialer = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialer = contexts.dialer.wrap_bio(to_dialer, to_acceptor)
    acceptor = contexts.acceptor.wrap_bio(to_acceptor, to_dialer, server_side=True)
    for end in (dialer, acceptor) * FLIGHTS_MAX:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            detail = (
                f"would be refused by the other nodes: {error.verify_message}. It must be signed by "
                f"{str(files.ca)!r}, be valid now by the clock of this machine, and allow serverAuth and clientAuth"
            )
            raise CertificateError("certificate", files.certificate, detail) from None
        except ssl.SSLError as error:
            detail = f"cannot be used: {reason_of(error)}"
            raise CertificateError("certificate", files.certificate, detail) from None
    return names_of(acceptor.getpeercert())


def reason_of(error: ssl.SSLError) -> str:
    return (error.reason or str(error.args[-1])).replace("_", " ").lower()
