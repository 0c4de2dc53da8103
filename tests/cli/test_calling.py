"""The commands that speak to nodes of their own choice: `step-down`, `replace-node`, `backup`."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from holdfast.cli.app import command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Node:
    """Answers every call as the test says."""

    def __init__(self) -> None:
        self.status, self.body = 200, {"leader": "n2"}
        self.paths: list[str] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                node.paths.append(self.path)
                raw = json.dumps(node.body).encode()
                self.send_response(node.status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def refuses(self, status: int, code: str) -> None:
        self.status, self.body = status, {"code": code, "detail": f"because of {code}"}


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    thread = threading.Thread(target=node.server.serve_forever)
    thread.start()
    yield node
    node.server.shutdown()
    thread.join()
    node.server.server_close()


COMMANDS = ["step-down", "backup"]


def run(name: str, endpoints: str, tmp_path: Path) -> Result:
    file = [str(tmp_path / "the.backup")] if name == "backup" else []
    return CliRunner().invoke(command, [name, "--endpoints", endpoints, *file])


@pytest.mark.parametrize("written", ["{}", "http://{}/", " {} ,"])
def test_endpoints_are_written_as_for_every_other_command(
    node: Node, tmp_path: Path, written: str
) -> None:
    """With and without a scheme."""
    endpoints = written.format(node.address)
    assert run("step-down", endpoints, tmp_path).exit_code == 0
    run("backup", endpoints, tmp_path)
    assert node.paths == ["/v1/cluster/step-down", "/v1/cluster/backup"]


@pytest.mark.parametrize("name", COMMANDS)
def test_endpoints_that_are_no_urls_are_exit_code_2(tmp_path: Path, name: str) -> None:
    """A typing mistake is told before anything is asked."""
    result = run(name, "ftp://127.0.0.1", tmp_path)
    assert result.exit_code == 2
    assert "an endpoint is http://host:port" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "unauthenticated", 1),
        (403, "forbidden", 1),
        (400, "bad_request", 2),
        (503, "no_leader", 69),
    ],
)
def test_a_refusal_is_told_and_is_an_exit_code(
    node: Node, tmp_path: Path, name: str, status: int, code: str, exit_code: int
) -> None:
    """69 is for who might be reached later; who has no right need not try again."""
    node.refuses(status, code)
    result = run(name, f"http://{node.address}", tmp_path)
    assert result.exit_code == exit_code
    assert f"because of {code}" in result.stderr
    assert list(tmp_path.iterdir()) == []
