"""HTTPS: what is shown to callers, who they are by their certificate, and new files without a restart."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from holdfast_coordinator.certificates import CertificateError
from holdfast_coordinator.http import HttpServer, start_http
from holdfast_coordinator.server_certificates import (
    ServerCertificate,
    ServerFiles,
    load,
    warnings,
)

from ..access import (  # noqa: TID252 - tests are no package that is on the path
    access_of,
    bearer,
    grant,
    identity,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

LONG_AGO = {
    "not_before": datetime(2019, 1, 1, tzinfo=UTC),
    "not_after": datetime(2020, 1, 1, tzinfo=UTC),
}
WORKER = "worker.example"
SPIFFE = "spiffe://Example/Worker"


def issue(ca: trustme.CA, files: ServerFiles, *names: str, **dates: datetime) -> None:
    leaf = ca.issue_cert(*names, **dates)
    leaf.cert_chain_pems[0].write_to_path(files.certificate)
    leaf.private_key_pem.write_to_path(files.key)
    files.key.chmod(0o600)


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def callers_ca() -> trustme.CA:
    """Another one than the node's own."""
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, ca: trustme.CA, callers_ca: trustme.CA) -> ServerFiles:
    callers_ca.cert_pem.write_to_path(tmp_path / "callers.pem")
    found = ServerFiles(tmp_path / "n1.pem", tmp_path / "n1.key", tmp_path / "callers.pem")
    issue(ca, found, "127.0.0.1", "localhost")
    return found


@pytest.fixture
async def secure(node: Any) -> AsyncIterator[Callable[..., Any]]:
    servers: list[HttpServer] = []

    async def start(files: ServerFiles, **options: Any) -> str:
        certificate = ServerCertificate(files, "n1")
        server = await start_http(node, "127.0.0.1", 0, certificate=certificate, **options)
        servers.append(server)
        return f"https://127.0.0.1:{server.port}"

    yield start
    for server in servers:
        await server.close()


def trusting(ca: trustme.CA, shows: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if shows is not None:
        shows.configure_cert(context)
    return context


async def get(url: str, context: ssl.SSLContext, **more: Any) -> int:
    """The status, over a connection of its own."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http,
        http.get(url, **more) as response,
    ):
        await response.read()
        return response.status


async def test_a_caller_verifies_the_node_by_its_host_name(
    secure: Callable[..., Any], ca: trustme.CA, files: ServerFiles
) -> None:
    """A certificate of another CA, or for another name, is refused by the caller; so is a node without TLS."""
    url = await secure(files)
    assert await get(f"{url}/v1/cluster", trusting(ca)) == 200
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await get(f"{url}/v1/cluster", trusting(trustme.CA()))
    issue(ca, files, "another.example")
    with pytest.raises(aiohttp.ClientConnectorCertificateError, match=r"127\.0\.0\.1"):
        await get(f"{url}/v1/cluster", trusting(ca))
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"{url.replace('https', 'http')}/healthz")


async def test_new_files_are_shown_without_a_restart_and_bad_ones_are_not(
    secure: Callable[..., Any], ca: trustme.CA, callers_ca: trustme.CA, files: ServerFiles
) -> None:
    """To new connections; what is open goes on. A file that is half there leaves the former certificate in its place."""
    url = await secure(files)
    other = trustme.CA()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(ca))) as http:
        async with http.get(f"{url}/healthz") as response:
            assert response.status == 200
        issue(other, files, "127.0.0.1")
        assert await get(f"{url}/healthz", trusting(other)) == 200
        async with http.get(f"{url}/healthz") as response:
            assert response.status == 200
    files.certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    assert await get(f"{url}/healthz", trusting(other)) == 200


async def test_a_new_ca_of_callers_counts_without_a_restart(
    secure: Callable[..., Any], ca: trustme.CA, callers_ca: trustme.CA, files: ServerFiles
) -> None:
    """The former one does not count any more."""
    access = access_of(identity("worker", certificate_names=[WORKER], bearer_sha256=[]))
    url = await secure(files, access=access)
    old, new = callers_ca.issue_cert(WORKER), (newer := trustme.CA()).issue_cert(WORKER)
    path = f"{url}/v1/cluster"
    assert await get(path, trusting(ca, old)) == 200
    assert files.ca is not None
    newer.cert_pem.write_to_path(files.ca)
    assert await get(path, trusting(ca, new)) == 200
    with pytest.raises(aiohttp.ClientError):
        await get(path, trusting(ca, old))


async def test_a_certificate_is_an_identity(
    secure: Callable[..., Any], ca: trustme.CA, callers_ca: trustme.CA, files: ServerFiles
) -> None:
    """By a DNS name or a URI in it. One that is nobody's, or of two, is a 401; one by another CA is not even heard; a bearer token
    goes before it."""
    access = access_of(
        identity("worker", grant("read"), certificate_names=[WORKER, SPIFFE], bearer_sha256=[]),
        identity("other", certificate_names=["other.example"]),
    )
    url = f"{await secure(files, access=access)}/v1/cluster"
    for name in (WORKER, WORKER.upper(), SPIFFE):
        assert await get(url, trusting(ca, _leaf(callers_ca, name))) == 200, name
    for names in (("stranger.example",), (WORKER, "other.example"), (SPIFFE.lower(),)):
        assert await get(url, trusting(ca, _leaf(callers_ca, *names))) == 401, names
    assert await get(url, trusting(ca)) == 401
    shown = trusting(ca, _leaf(callers_ca, WORKER))
    assert await get(url, shown, headers=bearer("nobody")) == 401
    with pytest.raises(aiohttp.ClientError):
        await get(url, trusting(ca, _leaf(trustme.CA(), WORKER)))
    expired = callers_ca.issue_cert(WORKER, **LONG_AGO)
    with pytest.raises(aiohttp.ClientError):
        await get(url, trusting(ca, expired))


def _leaf(ca: trustme.CA, *names: str) -> trustme.LeafCert:
    if SPIFFE.lower() not in {name.lower() for name in names}:
        return ca.issue_cert(*names)
    return _with_uri(ca, names[0])


def _with_uri(ca: trustme.CA, uri: str) -> trustme.LeafCert:
    """trustme makes certificates for hosts and people only."""
    key, signer = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.load_pem_x509_certificate(ca.cert_pem.bytes()),
    )
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "worker")])
    made = (
        x509.CertificateBuilder(signer.subject, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2090, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
        .sign(load_pem_private_key(ca.private_key_pem.bytes(), None), hashes.SHA256())  # type: ignore[arg-type]
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return trustme.LeafCert(private, made.public_bytes(Encoding.PEM), [])


async def test_who_has_no_certificate_is_not_heard_if_one_is_required(
    secure: Callable[..., Any], ca: trustme.CA, callers_ca: trustme.CA, files: ServerFiles
) -> None:
    """Not even for /healthz."""
    required = ServerFiles(files.certificate, files.key, files.ca, demands=True)
    url = f"{await secure(required)}/healthz"
    assert await get(url, trusting(ca, callers_ca.issue_cert("any.example"))) == 200
    with pytest.raises(aiohttp.ClientError):
        await get(url, trusting(ca))


async def test_nothing_older_than_tls_1_3_is_spoken(
    secure: Callable[..., Any], ca: trustme.CA, files: ServerFiles
) -> None:
    url = await secure(files)
    context = trusting(ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(aiohttp.ClientError):
        await get(f"{url}/healthz", context)


async def test_closing_ends_handshakes_that_are_under_way(node: Any, files: ServerFiles) -> None:
    """Whoever never says a word of TLS does not hold up the node."""
    server = await start_http(node, "127.0.0.1", 0, certificate=ServerCertificate(files, "n1"))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    _, again = await asyncio.open_connection("127.0.0.1", server.port)
    again.write(b"no TLS at all\r\n\r\n")
    await again.drain()
    await server.close()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    for each in (writer, again):
        each.close()


@pytest.mark.parametrize(
    ("breaks", "field", "words"),
    [
        (lambda ca, f: f.key.unlink(), "key", "cannot be read"),
        (lambda ca, f: f.ca.write_text("-----BEGIN "), "ca", "no certificate in PEM form"),
        (lambda ca, f: issue(ca, f, "localhost", **LONG_AGO), "certificate", "has expired"),
        (
            lambda ca, f: ca.issue_cert("x").private_key_pem.write_to_path(f.key),
            "key",
            "is not the key of",
        ),
    ],
)
def test_what_every_caller_would_refuse_is_refused_at_the_start(
    ca: trustme.CA, files: ServerFiles, breaks: Any, field: str, words: str
) -> None:
    breaks(ca, files)
    with pytest.raises(CertificateError, match=words) as refused:
        load(files)
    assert refused.value.field == field


def test_a_certificate_for_another_host_is_a_warning(ca: trustme.CA, files: ServerFiles) -> None:
    """A load balancer's name may be the one that callers use. A key that everybody can read is one too."""
    assert warnings(files, "127.0.0.1") == []
    assert warnings(files, "LocalHost".lower()) == []
    (warning,) = warnings(files, "n1.example")
    assert "does not name n1.example (it holds 127.0.0.1, localhost)" in warning
    issue(ca, files, "*.example")
    files.key.chmod(0o644)
    (warning,) = warnings(files, "n1.example")
    assert "chmod 600" in warning
