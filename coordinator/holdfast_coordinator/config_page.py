"""docs/configuration.md, made from the structs that cluster.yml is converted to: `python -m holdfast_coordinator.config_page`.

Rule: names, types and defaults are read off the code; SETTINGS adds what no type can say. What is not in SETTINGS is described by
the docstring below it, in the struct of its section or, for the outermost settings, in `ClusterConfig`. What has neither is an
error, and so is a line of SETTINGS for a setting that does not exist: the page can be neither short nor stale.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
import textwrap
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from holdfast import wire
from holdfast_coordinator import config, config_walk
from holdfast_coordinator.config_text import AFTER, BEFORE, SECTIONS
from holdfast_coordinator.http_settings import INSECURE
from holdfast_coordinator.machine import INCARNATION_MAX, Limits
from holdfast_coordinator.machine.levels import HIGHEST, LOWEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast_coordinator.config_walk import Field


@dataclass(frozen=True, slots=True)
class Between:
    """The least and the greatest value. A test tries both, and what is just outside."""

    low: int
    high: int

    def __str__(self) -> str:
        if self.high == wire.INTEGER_MAX:
            return f"at least {_number(self.low)}"
        return f"{_number(self.low)} to {_number(self.high)}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What the types do not say. `limits`: None where every value of the type will do."""

    unit: str
    limits: Between | str | None
    why: str


_TIMING: Final = Between(config.HEARTBEAT_MS_MIN, config.TIMING_MS_MAX)
_SNAPSHOTS: Final = Between(1, config.SNAPSHOTS_MAX)
COUNT: Final = Between(1, wire.INTEGER_MAX)
_SECRET: Final = f"{config.SECRET_BYTES_MIN} to {config.SECRET_BYTES_MAX} bytes"
_SAME: Final = "The same on every node."

SETTINGS: Final[dict[str, Setting]] = {
    "cluster": Setting(
        "name",
        config.NAME_RULE,
        f"A node refuses to talk to, or to open the data of, a cluster of another name. {_SAME}",
    ),
    "data_dir": Setting(
        "directory",
        "relative to this file",
        "Each node uses `<data_dir>/<name>`. On a local disk with power-loss protection: every grant waits for its fdatasync.",
    ),
    "nodes[]": Setting(
        "list", f"1 to {config.NODES_MAX}", f"Every node that the cluster has; see below. {_SAME}"
    ),
    "nodes[].name": Setting(
        "name",
        config.NAME_RULE,
        "Its place in the cluster for ever; no two differ in case alone, since each is a folder.",
    ),
    "nodes[].http": Setting(
        "host:port",
        "port 1 to 65535; IPv6 in brackets",
        "Where it listens for callers, and where they find it. A name is resolved when it starts.",
    ),
    "nodes[].raft": Setting(
        "host:port",
        "as `http`, and an address of this machine that the others reach",
        "Where it listens for the other nodes. Open it to them alone.",
    ),
    "secret": Setting(
        "text",
        _SECRET,
        "What the nodes prove to each other. Rather `secret_file` or the environment: this file is read by more people.",
    ),
    "secret_file": Setting(
        "file",
        f"{_SECRET}; relative to this file",
        "A file that holds it; a newline at its end does not count. Readable for the node's user only, else the node warns.",
    ),
    "raft_tls": Setting(
        "section",
        None,
        "TLS 1.3 between the nodes, with certificates on both sides; for all or for none. New files are taken without a restart.",
    ),
    "raft_tls.ca": Setting(
        "file",
        "PEM",
        "Who signs the nodes' certificates. Of your own and for nothing else: whoever it names is a node.",
    ),
    "raft_tls.certificate": Setting(
        "file",
        "PEM, its chain included",
        "For serverAuth and clientAuth, with DNS:<name of the node> as subjectAltName. `{node}` in a file's name is the node's.",
    ),
    "raft_tls.key": Setting("file", "PEM, no passphrase", "Readable for the node's user only."),
    "timing": Setting("section", None, "How soon a dead leader is noticed."),
    "timing.heartbeat_ms": Setting(
        "ms", _TIMING, "How often the leader says that it lives. Below a third of `election_ms_min`."
    ),
    "timing.election_ms_min": Setting(
        "ms",
        _TIMING,
        "A node that has heard nothing for a random time from here to `election_ms_max` calls an election. Above three "
        "heartbeats, so that one that is lost unseats nobody; above the worst pause of a machine or a disk.",
    ),
    "timing.election_ms_max": Setting(
        "ms", _TIMING, "Well above `election_ms_min`: nodes that wait equally long split the vote."
    ),
    "snapshots": Setting(
        "section", None, "When a node replaces its journal by a snapshot, each for itself."
    ),
    "snapshots.after_entries": Setting(
        "entries", _SNAPSHOTS, "A restart replays what came after: 100,000 take some seconds."
    ),
    "snapshots.after_mib": Setting("MiB", _SNAPSHOTS, "Or so much journal, whichever comes first."),
    "snapshots.keep_entries": Setting(
        "entries",
        _SNAPSHOTS,
        "Stay although a snapshot holds them, so that a node which was away for a moment needs no snapshot.",
    ),
    "log": Setting("section", None, "What a node logs, each for itself."),
    "limits": Setting("section", None, "What is tolerated before a caller is refused; see below."),
    "quotas[]": Setting(
        "list",
        f"at most {config.QUOTAS_MAX}",
        f"What one tenant may use; the first that is exhausted is named in the refusal. {_SAME}",
    ),
    "quotas[].prefix": Setting(
        "text",
        f"1 to {wire.KEY_BYTES_MAX} bytes",
        "Whose it is: everybody whose keys begin so. Exactly one of `prefix` and `owner`.",
    ),
    "quotas[].owner": Setting(
        "text", f"1 to {wire.OWNER_BYTES_MAX} bytes", "Whose it is: who calls itself so."
    ),
    "quotas[].sessions": Setting("sessions", COUNT, "Open at once. With `owner` only."),
    "quotas[].holds": Setting("keys", COUNT, "Held at once; a hold of three keys counts thrice."),
    "quotas[].waiters": Setting("keys", COUNT, "Waited for at once."),
    "quotas[].acquires_per_second": Setting(
        "per second", COUNT, "Counted by each node for itself, so a cluster of three lets three times as many through."
    ),
    "incarnation": Setting(
        "number",
        Between(0, INCARNATION_MAX),
        f"How often the cluster began anew from a backup: one more each time, never less. {_SAME}",
    ),
    "epoch": Setting(
        "number",
        Between(0, wire.INTEGER_MAX),
        "Of the addresses in `nodes`: one more with each change, so that an older file is told from a newer one.",
    ),
    "format_level_max": Setting(
        "level",
        Between(LOWEST, HIGHEST),
        "The node says that it knows no higher format, so that an upgrade can be taken back for as long as this stands.",
    ),
    "insecure": Setting(
        "sentence",
        f"`{INSECURE}`",
        "Says that others may reach HTTP although there is no secret or no `access`. Without it such a node refuses to start.",
    ),
    "http_tls": Setting("section", None, "HTTPS for callers. New files are taken without a restart."),
    "http_tls.certificate": Setting(
        "file",
        "PEM, its chain included",
        "For serverAuth and the names by which callers reach the node. `{node}` in a file's name is the node's.",
    ),
    "http_tls.key": Setting("file", "PEM, no passphrase", "Readable for the node's user only."),
    "http_tls.ca": Setting("file", "PEM", "Who signs the certificates of callers; with it they may show one."),
    "http_tls.require_client_certificate": Setting(
        "true or false", None, "Callers without a certificate are turned away before HTTP. Needs `ca`."
    ),
    "access": Setting("section", None, "Who may do what. Without it whoever reaches the node may do everything."),
    "access.identities[]": Setting("list", None, "Who calls, and what they may."),
    "access.metrics_open": Setting("true or false", None, "Metrics are told to whoever asks."),
    "access.identities[].name": Setting("name", None, "What the audit says. Sessions belong to it: a new name, new sessions."),
    "access.identities[].bearer_sha256[]": Setting(
        "list", "64 hexadecimal digits each", "SHA-256 of its bearer tokens: `holdfast credential new` makes both."
    ),
    "access.identities[].certificate_names[]": Setting(
        "list", None, "Or names in the certificate that it shows. Needs `http_tls.ca`."
    ),
    "access.identities[].may[]": Setting("list", None, "Its rights."),
    "access.identities[].may[].rights[]": Setting("list", "`acquire`, `read`, `force`, `admin`", "What it may do."),
    "access.identities[].may[].prefixes[]": Setting("list", None, "Under which keys; without it under all."),
}  # fmt: skip
"""Of the sections that `config` itself declares. A later section says it in docstrings, or here."""

LIMITS: Final[dict[str, Between]] = {
    "keys_per_acquire_max": Between(1, config.KEYS_PER_ACQUIRE_CEILING),
    "wait_ms_max": Between(config.WAIT_MS_MAX_FLOOR, wire.INTEGER_MAX),
}
"""Where a limit is not simply a positive whole number."""

_UNITS: Final = (
    ("_ms_", "ms"), ("bytes_", "bytes"), ("_mib_", "MiB"), ("per_second_", "per second"), ("list_limit", "locks"),
    ("blocks", "blocks"), ("sessions", "sessions"), ("waiters", "waiters"), ("request_ids", "ids"), ("endings", "holds"),
    ("requests", "requests"), ("watchers", "streams"), ("connections", "connections"), ("headers", "lines"),
)  # fmt: skip
_COUNTED_OTHERWISE: Final = "keys"


class Undescribed(Exception):
    """A setting that says nothing of itself. Put a docstring below it, or a line into SETTINGS."""


def render() -> str:
    """The page."""
    parts = [BEFORE]
    left = dict(SETTINGS)
    for path, fields in config_walk.walk(config.FILE):
        if path:
            parts.append(f"\n## `{path}`\n")
            parts += [f"\n{SECTIONS[path]}\n"] if path in SECTIONS else []
        rows = [(field.name, *_cells(field, left.pop(field.path, None))) for field in fields]
        parts.append(_table(rows))
    if left:
        raise Undescribed(f"there is no such setting: {', '.join(sorted(left))}")
    parts.append(f"\n## `limits`\n\n{SECTIONS['limits']}\n")
    for title, owner in (("machine", Limits), ("http", config.HttpLimits)):
        parts.append(f"\n{SECTIONS[f'limits.{title}']}\n{_table(_limits(owner))}")
    parts.append(AFTER)
    return "".join(parts)


def _cells(field: Field, setting: Setting | None) -> tuple[str, str, str, str]:
    """Unit, default, limits, why."""
    if setting is not None:
        limits = "" if setting.limits is None else str(setting.limits)
        return setting.unit, _default(field), limits, setting.why
    words = (
        ", ".join(f"`{word}`" for word in get_args(field.type))
        if get_origin(field.type) is Literal
        else ""
    )
    return _unit_of_type(field), _default(field), words, _described(field)


def _limits(owner: type) -> list[tuple[str, str, str, str, str]]:
    docs = docstrings(owner)
    return [
        (each.name, unit_of(each.name), _number(each.default), str(LIMITS.get(each.name, COUNT)), docs[each.name])
        for each in dataclasses.fields(owner)
        if type(each.default) is int
    ]  # fmt: skip


def unit_of(name: str) -> str:
    """What a limit counts, by its name: units stand last in names here."""
    return next((unit for part, unit in _UNITS if part in f"{name}_"), _COUNTED_OTHERWISE)


def _described(field: Field) -> str:
    """From a docstring of its own section, or of the dataclass that it becomes."""
    owner, _, name = field.path.removesuffix("[]").rpartition(".")
    struct = config_walk.struct_at(config.FILE, f"$.{owner.replace('[]', '[0]')}" if owner else "$")
    becomes = config.ClusterConfig if not owner else None
    for each in (struct, becomes):
        if each is not None and name in (docs := docstrings(each)):
            return docs[name]
    raise Undescribed(
        f"{field.path}: put a docstring below it in {struct and struct.__name__}, or a line into config_page.SETTINGS"
    )


def docstrings(owner: type) -> dict[str, str]:
    """The text below each attribute of a class, as one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)  # noqa: S101
    return dict(_texts(tree.body))


def _texts(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for before, after in itertools.pairwise(body):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            yield before.target.id, " ".join(after.value.value.split())


def _unit_of_type(field: Field) -> str:
    if field.section is not None:
        return "list" if field.path.endswith("[]") else "section"
    kinds = {int: unit_of(field.name), bool: "true or false", str: "text", float: "number"}
    hint = field.type
    if get_origin(hint) in {Union, types.UnionType}:
        hint = next(each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Literal:
        return "word"
    return kinds.get(hint, "list" if get_origin(hint) is list else "section")


def _default(field: Field) -> str:
    value = field.default
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return _number(value)
    return (
        "as below" if field.section is not None and value else "none" if not value else f"`{value}`"
    )


def _number(value: Any) -> str:
    return f"{value:,}"


def _table(rows: list[tuple[str, str, str, str, str]]) -> str:
    lines = ["| setting | unit | default | limits | why |", "| --- | --- | --- | --- | --- |"]
    for name, *cells in rows:
        escaped = [cell.replace("|", "\\|") for cell in cells]
        lines.append(f"| `{name}` | {' | '.join(escaped)} |")
    return "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
