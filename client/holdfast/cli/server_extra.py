"""The one door from the command to the server: the parts of `holdfast[server]` that `up`, `serve`, `demo` and `config check` run.

Rule: the server is imported inside the functions, never at the top, so that every other command works where only the client
is installed; and nowhere else in this package is it imported at all (import-linter checks it).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from holdfast.cli import exit_codes
from holdfast.cli.replacing import Place, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast_coordinator.config import ClusterConfig

_NEEDS: Final = {
    "holdfast_coordinator.backups": "server",
    "holdfast_coordinator.compaction": "server",
    "holdfast_coordinator.config": "server",
    "holdfast_coordinator.founding": "server",
    "holdfast_coordinator.journal_tool": "server",
    "holdfast_coordinator.server": "server",
    "holdfast_coordinator.demo": "server,ledger",
}
"""The entry modules, and the extras that bring what they import."""


class Refusal(Exception):
    """A sentence for the operator and the exit code that goes with it; raised before anything was started."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A node of the configuration as the supervisor needs it. `listens`: what for, host, port."""

    name: str
    http_url: str
    listens: tuple[tuple[str, str, int], ...]


def load(path: Path, environ: Mapping[str, str] = os.environ) -> ClusterConfig:
    """The configuration at `path`. Raises Refusal: the server is not installed, or the file is wrong and how."""
    _need("holdfast_coordinator.config")
    from holdfast_coordinator.config import ConfigError
    from holdfast_coordinator.config import load as load_config

    try:
        return load_config(path, environ)
    except ConfigError as error:
        raise Refusal(str(error), exit_codes.USAGE) from error


def check_certificates(config: ClusterConfig) -> list[str]:
    """Try out the certificates that are on this machine; warnings. Raises Refusal: one is wrong, and how."""
    from holdfast_coordinator.config import ConfigError

    try:
        return config.check_certificates_here()
    except ConfigError as error:
        raise Refusal(str(error), exit_codes.USAGE) from error


def local_nodes(config: ClusterConfig) -> tuple[LocalNode, ...]:
    """Every node of `config`, to be run on this machine."""
    scheme = "http" if config.http_tls is None else "https"
    return tuple(
        LocalNode(
            name=node.name,
            http_url="{}://{}:{}".format(scheme, *_reachable(node.http.host, node.http.port)),
            listens=(
                ("http", node.http.host, node.http.port),
                ("raft", node.raft.host, node.raft.port),
            ),
        )
        for node in config.nodes
    )


def readiness_tls(config: ClusterConfig) -> ssl.SSLContext | None:
    """How to ask the nodes on this machine whether they are ready, if they speak TLS. They are asked nothing else and told nothing,
    and may have the name of a load balancer, so they are not verified. Where callers need a certificate, a node's own is shown."""
    if config.http_tls is None:
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    files = config.http_tls.of(config.nodes[0].name)
    if files.demands:
        with contextlib.suppress(OSError):  # the node says better what is wrong with it
            context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    return context


def plan_of(config: ClusterConfig, node: str, without: frozenset[str]) -> Plan:
    """How `node` comes back at the address that `config` has for it. Raises Refusal: there is no such node."""
    from holdfast_coordinator.config import ConfigError

    try:
        for name in (node, *without):
            config.node(name)
    except ConfigError as error:
        raise Refusal(str(error), exit_codes.USAGE) from error
    places = {each.name: Place(config.http_url(each), str(each.raft)) for each in config.nodes}
    return Plan(config.cluster_id, config.epoch, node, places, without)


def is_new_cluster(config: ClusterConfig) -> bool:
    """Whether no node's data directory on this machine belongs to a cluster yet: then a start founds one."""
    _need("holdfast_coordinator.founding")
    from holdfast_coordinator import founding

    return founding.is_new_cluster(config)


def serve(config: ClusterConfig, node: str, *, bootstrap: bool) -> int:
    """Run one node in this process until a signal; the exit code."""
    from holdfast_coordinator.config import ConfigError

    try:
        config.node(node)
        config.check_certificates(node)
    except ConfigError as error:
        raise Refusal(str(error), exit_codes.USAGE) from error
    _need("holdfast_coordinator.server")
    from holdfast_coordinator.server import run

    return run(config, node, bootstrap=bootstrap)


def inspect_snapshot(path: Path) -> dict[str, object]:
    """What a snapshot file says and holds, by name. Raises Refusal: it is damaged, and where."""
    _need("holdfast_coordinator.compaction")
    from holdfast_coordinator.compaction import inspect

    try:
        return inspect(path)
    except (ValueError, OSError) as error:
        raise Refusal(f"{path}: {error}", exit_codes.FAILED) from error


def inspect_backup(path: Path) -> dict[str, Any]:
    """What a backup says and holds, by name. Raises Refusal: it cannot be restored, and why."""
    _need("holdfast_coordinator.backups")
    from holdfast_coordinator.backups import BackupError, inspect

    try:
        return inspect(path)
    except BackupError as error:
        raise Refusal(str(error), exit_codes.FAILED) from error


def restore(
    path: Path | None,
    config: ClusterConfig,
    nodes: tuple[str, ...],
    *,
    keep_holds: bool,
    data_dir: Path | None,
) -> dict[str, Any]:
    """Write data directories from a backup, or (`path` None) for a cluster that begins with nothing; what was written, by name.
    Raises Refusal: nothing starts on what is there, and why."""
    _need("holdfast_coordinator.backups")
    from holdfast_coordinator import backups
    from holdfast_coordinator.config import ConfigError

    if answering := backups.answering(config):
        raise Refusal(
            f"somebody answers at {', '.join(answering)}: stop every node of the cluster first, and start none before the "
            "restore is done on every machine",
            exit_codes.FAILED,
        )
    try:
        if path is None:
            done = backups.begin_without_backup(config, nodes, data_dir=data_dir)
        else:
            done = backups.restore(path, config, nodes, keep_holds=keep_holds, data_dir=data_dir)
    except ConfigError as error:
        raise Refusal(str(error), exit_codes.USAGE) from error
    except backups.BackupError as error:
        raise Refusal(str(error), exit_codes.FAILED) from error
    return dataclasses.asdict(done)


def verify_journal(directory: Path) -> dict[str, Any]:
    """What the journal of a data directory holds, by name. Raises Refusal: it is damaged, and where."""
    _need("holdfast_coordinator.journal_tool")
    from holdfast_coordinator.journal_tool import Damaged, verify

    try:
        return verify(directory)
    except Damaged as damaged:
        raise Refusal(str(damaged), exit_codes.FAILED) from damaged


def dump_journal(directory: Path, first: int | None, last: int | None) -> Iterator[dict[str, Any]]:
    """The entries of a journal, described. Raises Refusal: it is damaged, and where."""
    _need("holdfast_coordinator.journal_tool")
    from holdfast_coordinator.journal_tool import Damaged
    from holdfast_coordinator.journal_tool import dump as dump_entries

    try:
        yield from dump_entries(directory, first, last)
    except Damaged as damaged:
        raise Refusal(str(damaged), exit_codes.FAILED) from damaged


def demo(
    *, messages: Path | None, workers: int, without_fence: bool, json_output: bool, seed: int | None
) -> int:
    """Run the demonstration; the exit code is 0 only if every promise held."""
    _need("holdfast_coordinator.demo")
    from holdfast_coordinator.demo import run_demo

    return run_demo(
        messages=messages,
        workers=workers,
        without_fence=without_fence,
        json_output=json_output,
        seed=seed,
    )


def _reachable(host: str, port: int) -> tuple[str, int]:
    """The address at which a listener on `host` answers from this machine."""
    if host in {"0.0.0.0", ""}:  # noqa: S104 - compared with, not bound
        return "127.0.0.1", port
    if ":" in host:
        return ("[::1]" if host == "::" else f"[{host}]"), port
    return host, port


def _need(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        _refuse_missing(error, _NEEDS[module])


def _refuse_missing(error: ModuleNotFoundError, extras: str) -> NoReturn:
    raise Refusal(
        f"this command runs coordinator nodes and needs {error.name}, which this installation does not have. "
        f"Install it with: pip install 'holdfast[{extras}]'",
        exit_codes.USAGE,
    ) from error
