"""What a client shows, and how it knows whom it shows it to."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

import holdfast
from holdfast import credentials
from holdfast.cli.app import command
from holdfast.clock import BootClock
from holdfast.transport import HttpTransport, NotSent, Request

TOKEN = "holdfast_the-token-of-a-test"  # noqa: S105


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, ca: trustme.CA) -> dict[str, str]:
    """The variables of the environment, and the files that they name."""
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf = ca.issue_cert("worker.example")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "worker.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "worker.key")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    (tmp_path / "token").write_text(TOKEN + "\n")
    return {
        "HOLDFAST_BEARER_FILE": str(tmp_path / "token"),
        "HOLDFAST_CA_FILE": str(tmp_path / "ca.pem"),
        "HOLDFAST_CERTIFICATE_FILE": str(tmp_path / "worker.pem"),
        "HOLDFAST_KEY_FILE": str(tmp_path / "worker.key"),
    }


Told = list[tuple[dict[str, str], Any]]


@pytest.fixture
async def node(ca: trustme.CA) -> AsyncIterator[Callable[..., Any]]:
    """A node of TLS that answers everything with `{}`, and says what it was told: headers and the caller's certificate."""
    servers: list[asyncio.Server] = []

    async def start(*names: str, callers: trustme.CA | None = None) -> tuple[str, Told]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*names).configure_cert(context)
        if callers is not None:
            callers.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        told: Told = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                return writer.close()
            lines = [line.partition(": ") for line in head.splitlines()[1:] if line]
            told.append(
                ({name: value for name, _, value in lines}, writer.get_extra_info("peercert"))
            )
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
                b"Connection: close\r\n\r\n{}"
            )
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        servers.append(server)
        return f"https://{names[0]}:{server.sockets[0].getsockname()[1]}", told

    yield start
    for server in servers:
        server.close()


async def ask(endpoint: str, shown: holdfast.Credentials) -> None:
    transport = HttpTransport(clock=BootClock(), **shown.keywords)
    try:
        await transport.attempt(endpoint, Request("GET", "/v1/cluster"), seconds=10)
    finally:
        await transport.aclose()


async def test_everything_that_the_environment_names_is_shown(
    node: Callable[..., Any], ca: trustme.CA, files: dict[str, str]
) -> None:
    """To a node that is verified by its host name."""
    endpoint, told = await node("localhost", callers=ca)
    await ask(endpoint, holdfast.credentials_from_environment(files))
    ((headers, certificate),) = told
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert ("DNS", "worker.example") in certificate["subjectAltName"]


async def test_a_node_of_another_name_or_ca_is_told_nothing(
    node: Callable[..., Any], ca: trustme.CA, files: dict[str, str]
) -> None:
    """And the request certainly took no effect."""
    shown = holdfast.credentials_from_environment(files)
    elsewhere, told = await node("another.example")
    with pytest.raises(NotSent, match="certificate"):
        await ask(elsewhere.replace("another.example", "localhost"), shown)
    strangers = holdfast.Credentials(TOKEN)  # trusts whom this machine trusts
    endpoint, told_too = await node("localhost")
    with pytest.raises(NotSent, match="certificate"):
        await ask(endpoint, strangers)
    assert told == told_too == []


def test_a_credential_is_in_no_repr(files: dict[str, str]) -> None:
    shown = holdfast.credentials_from_environment(files)
    assert shown.token == TOKEN
    assert TOKEN not in repr(shown)
    assert TOKEN not in repr(holdfast.connect("http://n1:1", **shown.keywords))


def test_nothing_is_shown_where_nothing_is_named() -> None:
    assert holdfast.credentials_from_environment({}) == holdfast.Credentials()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"HOLDFAST_BEARER": "x"}, "both given"),
        ({"HOLDFAST_BEARER_FILE": None, "HOLDFAST_BEARER": "a\nb"}, "characters that none has"),
        ({"HOLDFAST_BEARER_FILE": None, "HOLDFAST_BEARER": " "}, "is empty"),
        ({"HOLDFAST_BEARER_FILE": "/none"}, "'/none' cannot be read: No such file"),
        ({"HOLDFAST_CA_FILE": "/none"}, "'/none' is no file of CA certificates"),
        ({"HOLDFAST_CA_FILE": "{key}"}, "is no file of CA certificates"),
        ({"HOLDFAST_CERTIFICATE_FILE": None}, "without a certificate file"),
        ({"HOLDFAST_CERTIFICATE_FILE": "/none"}, "'/none' with the key"),
        ({"HOLDFAST_KEY_FILE": "{ca}"}, "cannot be used"),
    ],
)
def test_what_cannot_be_used_is_named_and_no_token_is(
    files: dict[str, str], changes: dict[str, str | None], words: str
) -> None:
    """Before anything is sent."""
    environ: dict[str, str] = {}
    for name, value in (files | changes).items():
        if value is not None:
            filled = value.replace("{key}", files["HOLDFAST_KEY_FILE"])
            environ[name] = filled.replace("{ca}", files["HOLDFAST_CA_FILE"])
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are looked at below
        holdfast.credentials_from_environment(environ)
    assert words in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_a_certificate_and_its_key_may_be_one_file(files: dict[str, str]) -> None:
    both = Path(files["HOLDFAST_KEY_FILE"]).with_name("both.pem")
    assert isinstance(holdfast.tls_context(certificate_file=both), ssl.SSLContext)


# -- the command -----------------------------------------------------------------------------------------------------------


def test_a_new_credential_is_random_and_its_digest_is_right() -> None:
    """As a line each for a person, as JSON for a script; `digest` says the same of one that comes from elsewhere."""
    runner = CliRunner()
    made = [
        json.loads(runner.invoke(command, ["credential", "new", "--json"]).stdout) for _ in "ab"
    ]
    assert made[0]["bearer"] != made[1]["bearer"]
    assert len(made[0]["bearer"]) == len("holdfast_") + 43
    token = made[0]["bearer"]
    assert made[0]["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    digest = runner.invoke(command, ["credential", "digest"], input=token + "\n")
    assert digest.stdout.strip() == made[0]["sha256"]
    lines = runner.invoke(command, ["credential", "new"]).stdout.splitlines()
    assert hashlib.sha256(lines[0].split()[-1].encode()).hexdigest() == lines[1].split()[-1]
    assert runner.invoke(command, ["credential", "digest"], input="").exit_code == 2


@pytest.mark.parametrize("arguments", [["ls"], ["step-down"], ["replace-node", "n1"]])
def test_a_command_names_the_file_that_it_cannot_use(
    files: dict[str, str], arguments: list[str]
) -> None:
    """And asks nobody."""
    environ = files | {"HOLDFAST_KEY_FILE": files["HOLDFAST_CA_FILE"]}
    done = CliRunner().invoke(command, arguments, env=environ)
    assert done.exit_code == 2
    assert "worker.pem" in done.stderr
    assert TOKEN not in done.output


def test_a_store_that_is_no_cluster_is_shown_nothing(files: dict[str, str], tmp_path: Path) -> None:
    """Whoever has a credential in the environment can use `sqlite://` all the same."""
    url = f"sqlite:///{tmp_path}/locks.db"
    done = CliRunner().invoke(command, ["ls", "--endpoints", url, "--json"], env=files)
    assert done.exit_code == 0, done.output


def test_the_names_of_the_variables_are_those_of_the_options() -> None:
    shown = CliRunner().invoke(command, ["status", "--help"], env={"COLUMNS": "200"}).output
    for name in ("ENV_BEARER_FILE", "ENV_CA_FILE", "ENV_CERTIFICATE_FILE", "ENV_KEY_FILE"):
        assert getattr(credentials, name) in shown
