"""cluster.yml, read into a typed configuration, or refused with a sentence that names the file, the path in it, and the value.

Rule: everything that can be known to be wrong before a socket is opened is refused here, so that nothing starts on a bad file.
A secret is never in a repr, an error or a log. All nodes of a cluster must be given the same `cluster`, `nodes`, `limits` and
`quotas`: the machine's bounds decide outcomes, and replicas that decide differently are no replicas. This module does not know the
engine, and the environment comes in as a parameter.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import yaml

from holdfast import wire
from holdfast_coordinator import (
    access,
    certificates,
    config_walk,
    http_settings,
    logs,
    server_certificates,
)
from holdfast_coordinator.access import Access, AccessError, AccessFile
from holdfast_coordinator.certificates import CertificateError, CertificateFiles
from holdfast_coordinator.http_settings import INSECURE, NODE_PLACEHOLDER, HttpTls, HttpTlsFile
from holdfast_coordinator.logs import LogFile
from holdfast_coordinator.machine import INCARNATION_MAX, Limits, Quota
from holdfast_coordinator.machine.levels import HIGHEST, LOWEST

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

FILE_BYTES_MAX: Final = 1024 * 1024
"""A configuration is a page or two; a larger file is some other file."""

NODES_MAX: Final = 9
"""Every entry goes to every node. Nine survive the loss of four; more only make each grant slower."""

SECRET_BYTES_MIN: Final = 16
"""128 bits, if they are random. Anything shorter can be guessed by somebody who may try for ever."""

SECRET_BYTES_MAX: Final = 4096
"""A secret file that is longer is some other file."""

ELECTION_PER_HEARTBEAT_MIN: Final = 3
"""Election times are longer than so many heartbeats: one may be lost and the next be late, and nobody calls an election."""

KEYS_PER_ACQUIRE_CEILING: Final = 256
"""What `keys_per_acquire_max` may be raised to: an acquire of so many keys of 512 bytes still fits into a log entry."""

WAIT_MS_MAX_FLOOR: Final = wire.WAIT_MS_MAX
"""What `wait_ms_max` may not be lowered below: a client asks for so long in one call, and every longer wait would be refused."""

HEARTBEAT_MS_MIN: Final = 10
TIMING_MS_MAX: Final = 60_000

SNAPSHOTS_MAX: Final = 1_000_000
"""Of each setting of `snapshots`: a journal of a million entries, or of a TiB, is not one that anybody wants to replay."""

QUOTAS_MAX: Final = 64
"""Each is looked at for each acquire and release. What has more tenants than this needs a quota for each kind of them."""

ENV_SECRET: Final = "HOLDFAST_SECRET"  # noqa: S105 - the name of a variable
ENV_SECRET_FILE: Final = "HOLDFAST_SECRET_FILE"  # noqa: S105 - the name of a variable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NAME_RULE: Final = "1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"
_HOSTNAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_MSGSPEC_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)
_VALUE_SHOWN_CHARS_MAX: Final = 80


class ConfigError(Exception):
    """The configuration cannot be used. `str()` is one sentence for the person who wrote the file; mend it and start again."""

    def __init__(self, file: Path, path: str, detail: str, line: int | None = None) -> None:
        self.file = file
        self.path = path
        self.detail = detail
        self.line = line
        place = str(file) if line is None else f"{file}:{line}"
        where = f"{place}: {path}: " if path else f"{place}: "
        # A name in the file may hold anything, and this is printed in somebody's terminal.
        sentence = where + detail
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence))


class Secret:
    """Bytes that do not show themselves. `reveal()` where they are really needed."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The bounds of the HTTP layer. Each may be set under `limits` in cluster.yml, beside those of the machine."""

    body_bytes_max: int = wire.BODY_BYTES_MAX
    """A body with 64 keys of 512 bytes fits; nothing larger is meant for us."""
    list_limit_max: int = wire.LIST_LIMIT_MAX
    """A page of a listing is built in one step of the event loop; 1,000 locks take a few milliseconds."""
    requests_in_flight_max: int = 20_000
    """Each waiting caller costs a task and a socket, some 20 KiB: 400 MiB at the bound."""
    waiters_shown_max: int = 100
    """A person looks at the head of a queue; `queue_length` tells the rest."""
    header_bytes_max: int = 8_190
    """Of one line of a head: two keys of 512 bytes, percent-encoded, are 3 KiB."""
    headers_max: int = 64
    """Lines of a head. A browser behind two proxies sends thirty."""
    head_read_ms_max: int = 10_000
    """From the first byte of a head (of the first one: from the connection) to its last. A caller sends it in one packet; whoever
    sends it byte by byte means to keep the connection."""
    connections_max: int = 20_000
    """Of one node. Each costs a file descriptor and some 10 KiB; as many as there can be requests in progress."""
    connections_per_peer_max: int = 5_000
    """From one IPv4 address, or one IPv6 network of 64 bits. A client has up to 1,136; four addresses together can fill a node.
    Callers behind a proxy share its address."""
    watchers_max: int = 1_000
    """Streams of events on one node. Together they take a tenth of the node's time; a thousand see what happens within a second."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often one tenant may ask each node for a lock: everybody whose keys begin with `prefix`, or whose owner is `owner`
    (exactly one of the two is set). Counted on each node for itself, and so no matter of the machine."""

    prefix: str | None
    owner: str | None
    acquires_per_second: int

    @property
    def name(self) -> str:
        return self.prefix if self.prefix is not None else f"owner {self.owner}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens and where others reach it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True only if nobody on another machine can reach it. A name other than `localhost` may resolve to anything: False."""
        if self.host.lower() == "localhost":
            return True
        ip = _ip(self.host)
        return ip is not None and ip.is_loopback

    @property
    def is_unspecified(self) -> bool:
        ip = _ip(self.host)
        return ip is not None and ip.is_unspecified


@dataclass(frozen=True, slots=True)
class NodeConfig:
    name: str
    http: Address
    raft: Address
    data_dir: Path


@dataclass(frozen=True, slots=True)
class Timing:
    heartbeat_ms: int
    election_ms_min: int
    election_ms_max: int


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM files of TLS, as written; relative ones are below `directory`, the one of cluster.yml."""

    directory: Path
    ca: str
    certificate: str
    key: str

    def of(self, node: str) -> CertificateFiles:
        """Those of one node."""
        paths = (
            self.directory / written.replace(NODE_PLACEHOLDER, node)
            for written in (self.ca, self.certificate, self.key)
        )
        return CertificateFiles(*paths)


@dataclass(frozen=True, slots=True)
class Snapshots:
    """When a node replaces its journal by a snapshot. Each node does it for itself; the values need not be the same on all."""

    after_entries: int
    """So many log entries since the last one. A restart replays them; 100,000 take some seconds."""
    after_mib: int
    """Or so much of the journal, whichever comes first."""
    keep_entries: int
    """Entries that stay although a snapshot holds them, so that a node which was away for a moment needs no snapshot."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A configuration that has passed every check that needs no socket.

    `warnings` are sentences for the person who starts the cluster: what will work, but probably is not what they want.
    `secret` is never empty: a cluster that is reachable on loopback only, and was given none, gets a well-known one.
    """

    file: Path
    cluster: str
    incarnation: int
    """How often the cluster was restored from a backup: raised by one with each restore, and never lowered."""
    epoch: int
    """Of the addresses in `nodes`: raised by one with each change, so that an older file is told from a newer one."""
    data_dir: Path
    nodes: tuple[NodeConfig, ...]
    timing: Timing
    snapshots: Snapshots
    machine_limits: Limits
    http_limits: HttpLimits
    rates: tuple[Rate, ...]
    secret: Secret = field(repr=False)
    has_secret: bool
    raft_tls: TlsSettings | None
    """The connections between nodes are TLS, with certificates on both sides. None: they are not encrypted."""
    warnings: tuple[str, ...] = ()
    http_tls: HttpTls | None = None
    """What HTTP is served with. None: it is not encrypted."""
    access: Access | None = None
    """Who may do what. None: everybody who reaches the node, everything."""
    log: LogFile = field(default_factory=LogFile)
    """What is logged, and how."""
    format_level_max: int = HIGHEST
    """Nodes say that they know no higher format level, so that the cluster is not raised beyond it."""

    def node(self, name: str) -> NodeConfig:
        """The node of this name. Raises `ConfigError` that says which names there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        hint = _suggest(name, [node.name for node in self.nodes])
        raise ConfigError(
            self.file, "$.nodes", f"there is no node {name!r}{hint}; the nodes are {known}"
        )

    def check_certificates(self, node: str) -> list[str]:
        """Read the TLS files of `node`, on its machine, and try them out; gives warnings. Raises `ConfigError`."""
        setting, found = "raft_tls", []
        try:
            if self.raft_tls is not None:
                files = self.raft_tls.of(node)
                certificates.load(files, node)
                found += certificates.warnings(files)
            setting = "http_tls"
            if self.http_tls is not None:
                shown = self.http_tls.of(node)
                server_certificates.load(shown)
                found += server_certificates.warnings(shown, self.node(node).http.host)
        except CertificateError as error:
            raise ConfigError(self.file, f"$.{setting}.{error.field}", str(error)) from error
        return found

    def check_certificates_here(self) -> list[str]:
        """The same for every node of which this machine has a certificate or a key; there must be one."""
        if self.raft_tls is None and self.http_tls is None:
            return []
        names = [node.name for node in self.nodes if self._has_certificate(node.name)]
        return [
            warning
            for name in names or [self.nodes[0].name]
            for warning in self.check_certificates(name)
        ]

    def _has_certificate(self, node: str) -> bool:
        files = [each.of(node) for each in (self.raft_tls, self.http_tls) if each is not None]
        return any(each.certificate.exists() or each.key.exists() for each in files)

    def http_url(self, node: NodeConfig) -> str:
        """Where callers find a node."""
        return f"{'http' if self.http_tls is None else 'https'}://{node.http}"

    @property
    def cluster_id(self) -> str:
        """What nodes must have in common to talk to each other. No name holds a '#'."""
        return f"{self.cluster}#{self.incarnation}" if self.incarnation else self.cluster

    @property
    def endpoints(self) -> str:
        """What a client is given: `http://127.0.0.1:7601,http://127.0.0.1:7602,...`."""
        return ",".join(self.http_url(node) for node in self.nodes)

    @property
    def survives(self) -> int:
        """How many nodes may be lost while the others go on."""
        return _survives(len(self.nodes))

    @property
    def members(self) -> dict[str, tuple[str, int]]:
        """Name to raft host and port, of every node."""
        return {node.name: (node.raft.host, node.raft.port) for node in self.nodes}


class _NodeFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: str
    http: str
    raft: str


class _TimingFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    heartbeat_ms: int = 100
    election_ms_min: int = 400
    election_ms_max: int = 800


class _TlsFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    ca: str
    certificate: str
    key: str


class _SnapshotsFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    after_entries: int = 100_000
    after_mib: int = 64
    keep_entries: int = 10_000


class _QuotaFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    prefix: str | None = None
    owner: str | None = None
    sessions: int | None = None
    holds: int | None = None
    waiters: int | None = None
    acquires_per_second: int | None = None


class _ClusterFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The file as written. `limits` is checked by name against the two dataclasses that own the bounds."""

    cluster: str
    data_dir: str
    nodes: list[_NodeFile]
    incarnation: int = 0
    epoch: int = 0
    secret: str | None = None
    secret_file: str | None = None
    raft_tls: _TlsFile | None = None
    http_tls: HttpTlsFile | None = None
    access: AccessFile | None = None
    insecure: str | None = None
    timing: _TimingFile = _TimingFile()
    snapshots: _SnapshotsFile = _SnapshotsFile()
    limits: dict[str, Any] = {}
    quotas: list[_QuotaFile] = []
    log: LogFile = LogFile()
    format_level_max: int = HIGHEST

    def __repr__(self) -> str:  # the generated one would show the secret
        return f"_ClusterFile(cluster={self.cluster!r})"


FILE: Final = _ClusterFile
"""For whoever describes the file (`config_page`)."""


def load(path: Path, environ: Mapping[str, str]) -> ClusterConfig:
    """Read and check `path`. `HOLDFAST_SECRET` or `HOLDFAST_SECRET_FILE` in `environ` replaces the file's secret.

    Raises `ConfigError`, and nothing else, for whatever is wrong with the file or a file that it names.
    """
    text = _read_text(path)
    try:
        return _load(path, text, environ)
    except ConfigError as error:
        if error.line is not None or not error.path.startswith("$"):
            raise
        line = config_walk.line_of(text, error.path)
        raise ConfigError(path, error.path, error.detail, line) from error.__cause__


def _load(path: Path, text: str, environ: Mapping[str, str]) -> ClusterConfig:
    written = _convert(path, _parse_yaml(path, text))
    _check_name(path, "$.cluster", written.cluster)
    if not 0 <= written.incarnation <= INCARNATION_MAX:
        detail = f"{written.incarnation} is outside 0 to {INCARNATION_MAX}"
        raise ConfigError(path, "$.incarnation", detail)
    if not 0 <= written.epoch <= wire.INTEGER_MAX:
        raise ConfigError(path, "$.epoch", f"{written.epoch} is outside 0 to {wire.INTEGER_MAX}")
    data_dir = _data_dir(path, written.data_dir)
    nodes = _nodes(path, written.nodes, data_dir)
    timing = _timing(path, written.timing)
    machine_limits, http_limits = _limits(path, written.limits)
    quotas, rates = _quotas(path, written.quotas)
    secret, warnings = _secret(path, written, environ)
    may_call = _access(path, written)
    if not _is_insecure(path, written.insecure):
        _require_loopback(path, nodes, secret=secret is not None, access=may_call is not None)
    warnings += _warnings(nodes)
    warnings += http_settings.warnings(
        written.insecure is not None,
        written.http_tls is not None,
        may_call is not None,
        [n.http for n in nodes],
    )
    # Well known on purpose: it keeps two clusters on one machine from mixing up their peers, and protects from nobody.
    well_known = Secret(f"holdfast loopback {written.cluster}".encode())
    return ClusterConfig(
        file=path,
        cluster=written.cluster,
        incarnation=written.incarnation,
        epoch=written.epoch,
        data_dir=data_dir,
        nodes=nodes,
        timing=timing,
        snapshots=_snapshots(path, written.snapshots),
        machine_limits=dataclasses.replace(machine_limits, quotas=quotas),
        http_limits=http_limits,
        rates=rates,
        secret=secret or well_known,
        has_secret=secret is not None,
        raft_tls=_tls(path, "$.raft_tls", written.raft_tls),
        warnings=tuple(warnings),
        http_tls=_http_tls(path, written.http_tls),
        access=may_call,
        log=_log(path, written.log, environ),
        format_level_max=_format_level(path, written.format_level_max),
    )


# -- reading ---------------------------------------------------------------------------------------------------------------


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML says that a key may stand once; PyYAML lets the last one win, and half a configuration is silently not there."""


def _construct_unique_mapping(
    loader: _UniqueKeyLoader, node: yaml.MappingNode
) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if key_node.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key_node.value!r} is given twice", key_node.start_mark
            )
        seen.add(key_node.value)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_unique_mapping
)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(path, "", "there is no such file") from None
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(
            path, "", f"is larger than {FILE_BYTES_MAX} bytes; this is not a configuration"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(path, "", f"is not UTF-8 text (byte {error.start})") from None


def _parse_yaml(path: Path, text: str) -> Any:
    try:
        raw = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader  # nosec B506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        column = f"column {mark.column + 1}" if mark is not None else ""
        line = mark.line + 1 if mark is not None else None
        raise ConfigError(path, column, f"is not valid YAML: {error.problem}", line) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(path, "", f"is not valid YAML: {detail}") from None
    if raw is None:
        raise ConfigError(path, "", "is empty; see the commented cluster.yml of the project")
    return raw


def _convert(path: Path, raw: Any) -> _ClusterFile:
    try:
        return msgspec.convert(raw, _ClusterFile, strict=True)
    except msgspec.ValidationError as error:
        match = _MSGSPEC_PATH.match(str(error))
        what, where = (match["what"], match["path"] or "$") if match else (str(error), "$")
    except RecursionError:
        raise ConfigError(path, "$", "is nested too deeply") from None
    unknown = _UNKNOWN_FIELD.match(what)
    if unknown:
        hint = _suggest(unknown["name"], config_walk.names_at(_ClusterFile, where))
        raise ConfigError(path, f"{where}.{unknown['name']}", f"there is no such setting{hint}")
    missing = _MISSING_FIELD.match(what)
    if missing:
        raise ConfigError(path, f"{where}.{missing['name']}", "is required and is not there")
    raise ConfigError(path, where, f"{what}: {_shown(where, _value_at(raw, where))}")


def _value_at(raw: Any, where: str) -> Any:
    for name, index in config_walk.STEP.findall(where):
        try:
            raw = raw[name] if name else raw[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def _shown(where: str, value: Any) -> str:
    if "secret" in where or "sha256" in where:
        return "(the value is not shown)"
    # A list or mapping at a wrong place may hold the secret further down: its kind is enough.
    if isinstance(value, dict | list):
        return "got a mapping" if isinstance(value, dict) else "got a list"
    text = repr(value)
    return text if len(text) <= _VALUE_SHOWN_CHARS_MAX else text[:_VALUE_SHOWN_CHARS_MAX] + "..."


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


# -- checking --------------------------------------------------------------------------------------------------------------


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_name(path: Path, where: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(path, where, f"{_shown(where, name)} is not a name: {NAME_RULE}")


def _data_dir(path: Path, written: str) -> Path:
    if not written or "\0" in written:
        raise ConfigError(path, "$.data_dir", f"{written!r} is not a directory name")
    return (path.parent / written).resolve()


def parse_address(text: str) -> Address:
    """`host:port` or `[IPv6]:port`. Raises ValueError with the reason."""
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        raise ValueError("is not host:port")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    ip = _ip(host)
    if bracketed != (":" in host) or (bracketed and ip is None):
        raise ValueError("is not host:port (an IPv6 address stands in brackets: [::1]:7601)")
    if ip is None and not _HOSTNAME.fullmatch(host):
        raise ValueError("has no valid host name")
    if not port_text.isascii() or not port_text.isdigit():
        raise ValueError("has no port number")
    port = int(port_text) if len(port_text) <= 5 else 65536
    if not 1 <= port <= 65535:
        raise ValueError("has a port outside 1 to 65535")
    return Address(host, port)


def _nodes(path: Path, written: list[_NodeFile], data_dir: Path) -> tuple[NodeConfig, ...]:
    if not written:
        raise ConfigError(
            path,
            "$.nodes",
            "is empty: a cluster needs at least one node, and three to survive the loss of one",
        )
    if len(written) > NODES_MAX:
        raise ConfigError(path, "$.nodes", f"has {len(written)} nodes; at most {NODES_MAX}")
    names: dict[str, str] = {}
    addresses: dict[tuple[str, int], str] = {}
    nodes = []
    for number, node in enumerate(written):
        where = f"$.nodes[{number}]"
        _check_name(path, f"{where}.name", node.name)
        # Compared without case, because each is a folder below data_dir and not every file system tells `N1` from `n1`.
        first = names.setdefault(node.name.lower(), f"{where}.name")
        if first != f"{where}.name":
            raise ConfigError(
                path, f"{where}.name", f"{node.name!r} is the name of another node too ({first})"
            )
        http = _address(path, f"{where}.http", node.http, addresses)
        raft = _address(path, f"{where}.raft", node.raft, addresses)
        if raft.is_unspecified:
            detail = f"{node.raft!r} is no address that the other nodes can connect to; name this machine's own"
            raise ConfigError(path, f"{where}.raft", detail)
        nodes.append(NodeConfig(node.name, http, raft, data_dir / node.name))
    return tuple(nodes)


def _address(path: Path, where: str, text: str, taken: dict[tuple[str, int], str]) -> Address:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise ConfigError(path, where, f"{_shown(where, text)} {error}") from None
    host = address.host.lower()
    same = ("127.0.0.1" if host == "localhost" else host, address.port)
    first = taken.setdefault(same, where)
    if first != where:
        raise ConfigError(path, where, f"{text!r} is taken already ({first})")
    return address


def _timing(path: Path, written: _TimingFile) -> Timing:
    for name in _TimingFile.__struct_fields__:
        value = getattr(written, name)
        if not HEARTBEAT_MS_MIN <= value <= TIMING_MS_MAX:
            detail = f"{value} is outside {HEARTBEAT_MS_MIN} to {TIMING_MS_MAX} ms"
            raise ConfigError(path, f"$.timing.{name}", detail)
    if written.election_ms_min <= ELECTION_PER_HEARTBEAT_MIN * written.heartbeat_ms:
        detail = (
            f"{written.election_ms_min} is not more than {ELECTION_PER_HEARTBEAT_MIN} heartbeats of "
            f"{written.heartbeat_ms} ms; one that is lost would unseat a healthy leader"
        )
        raise ConfigError(path, "$.timing.election_ms_min", detail)
    if written.election_ms_max <= written.election_ms_min:
        detail = (
            f"{written.election_ms_max} is not more than election_ms_min ({written.election_ms_min}); "
            "nodes that all wait equally long split every vote"
        )
        raise ConfigError(path, "$.timing.election_ms_max", detail)
    return Timing(written.heartbeat_ms, written.election_ms_min, written.election_ms_max)


def _tls(path: Path, where: str, written: _TlsFile | None) -> TlsSettings | None:
    """The form only: the files of another machine's node are not here (`ClusterConfig.check_certificates`)."""
    if written is None:
        return None
    for name in _TlsFile.__struct_fields__:
        value = getattr(written, name)
        if not value or "\0" in value:
            raise ConfigError(path, f"{where}.{name}", f"{value!r} is not a file name")
    return TlsSettings(path.parent, written.ca, written.certificate, written.key)


def _log(path: Path, written: LogFile, environ: Mapping[str, str]) -> LogFile:
    try:
        return msgspec.structs.replace(written, format=logs.chosen_format(environ, written.format))
    except ValueError as error:
        raise ConfigError(path, f"{logs.ENV_FORMAT} in the environment", str(error)) from None


def _snapshots(path: Path, written: _SnapshotsFile) -> Snapshots:
    for name in _SnapshotsFile.__struct_fields__:
        value = getattr(written, name)
        if not 1 <= value <= SNAPSHOTS_MAX:
            detail = f"{value} is outside 1 to {SNAPSHOTS_MAX}"
            raise ConfigError(path, f"$.snapshots.{name}", detail)
    return Snapshots(written.after_entries, written.after_mib, written.keep_entries)


def _format_level(path: Path, value: int) -> int:
    if not LOWEST <= value <= HIGHEST:
        detail = f"{value} is outside {LOWEST} to {HIGHEST}, the levels that this version knows"
        raise ConfigError(path, "$.format_level_max", detail)
    return value


def _limits(path: Path, written: dict[str, Any]) -> tuple[Limits, HttpLimits]:
    # Those that are a number; what tenants may use is said under `quotas`.
    machine_names = [f.name for f in dataclasses.fields(Limits) if type(f.default) is int]
    http_names = [f.name for f in dataclasses.fields(HttpLimits)]
    for name, value in written.items():
        where = f"$.limits.{name}"
        if name not in machine_names and name not in http_names:
            hint = _suggest(name, machine_names + http_names)
            raise ConfigError(path, where, f"there is no such limit{hint}")
        if type(value) is not int:  # a bool is an int to isinstance
            raise ConfigError(path, where, f"{_shown(where, value)} is not a whole number")
        if not 1 <= value <= wire.INTEGER_MAX:
            raise ConfigError(path, where, f"{value} is outside 1 to {wire.INTEGER_MAX}")
    machine = {name: value for name, value in written.items() if name in machine_names}
    http = {name: value for name, value in written.items() if name in http_names}
    try:
        limits = dataclasses.replace(Limits(), **machine)
    except ValueError as error:
        raise ConfigError(path, "$.limits", str(error)) from None
    if limits.keys_per_acquire_max > KEYS_PER_ACQUIRE_CEILING:
        detail = f"{limits.keys_per_acquire_max} is outside 1 to {KEYS_PER_ACQUIRE_CEILING}"
        raise ConfigError(path, "$.limits.keys_per_acquire_max", detail)
    if limits.wait_ms_max < WAIT_MS_MAX_FLOOR:
        detail = f"{limits.wait_ms_max} is less than {WAIT_MS_MAX_FLOOR}, for which clients wait in one call: it would refuse them"
        raise ConfigError(path, "$.limits.wait_ms_max", detail)
    if limits.ttl_ms_min > limits.ttl_ms_max:
        detail = f"{limits.ttl_ms_min} is more than ttl_ms_max ({limits.ttl_ms_max})"
        raise ConfigError(path, "$.limits.ttl_ms_min", detail)
    return limits, dataclasses.replace(HttpLimits(), **http)


def _quotas(path: Path, written: list[_QuotaFile]) -> tuple[tuple[Quota, ...], tuple[Rate, ...]]:
    """What the machine counts, and what each node counts for itself."""
    if len(written) > QUOTAS_MAX:
        raise ConfigError(path, "$.quotas", f"has {len(written)} quotas; at most {QUOTAS_MAX}")
    quotas, rates = [], []
    first: dict[tuple[str | None, str | None], str] = {}
    for number, quota in enumerate(written):
        where = f"$.quotas[{number}]"
        _check_quota(path, where, quota)
        tenant = (quota.prefix, quota.owner)
        taken = first.setdefault(tenant, where)
        if taken != where:
            raise ConfigError(path, where, f"is for the same tenant as {taken}")
        if (quota.sessions, quota.holds, quota.waiters) != (None, None, None):
            quotas.append(Quota(*tenant, quota.sessions, quota.holds, quota.waiters))
        if quota.acquires_per_second is not None:
            rates.append(Rate(*tenant, quota.acquires_per_second))
    return tuple(quotas), tuple(rates)


def _check_quota(path: Path, where: str, quota: _QuotaFile) -> None:
    if (quota.prefix is None) == (quota.owner is None):
        detail = "says whose it is in exactly one of two ways: prefix (of keys) or owner"
        raise ConfigError(path, where, detail)
    for name, bytes_max in (("prefix", wire.KEY_BYTES_MAX), ("owner", wire.OWNER_BYTES_MAX)):
        text: str | None = getattr(quota, name)
        if text is not None and not 1 <= len(text.encode()) <= bytes_max:
            detail = f"{_shown(where, text)} is not of 1 to {bytes_max} bytes"
            raise ConfigError(path, f"{where}.{name}", detail)
    bounds = ("sessions", "holds", "waiters", "acquires_per_second")
    values = {name: getattr(quota, name) for name in bounds if getattr(quota, name) is not None}
    if not values:
        raise ConfigError(path, where, f"bounds nothing; give one of {', '.join(bounds)}")
    for name, value in values.items():
        if not 1 <= value <= wire.INTEGER_MAX:
            detail = f"{value} is outside 1 to {wire.INTEGER_MAX}"
            raise ConfigError(path, f"{where}.{name}", detail)
    if quota.sessions is not None and quota.owner is None:
        detail = "goes with owner only: a session has an owner, and no key yet"
        raise ConfigError(path, f"{where}.sessions", detail)


def _secret(
    path: Path, written: _ClusterFile, environ: Mapping[str, str]
) -> tuple[Secret | None, list[str]]:
    env_secret, env_file = environ.get(ENV_SECRET), environ.get(ENV_SECRET_FILE)
    if env_secret is not None and env_file is not None:
        detail = f"{ENV_SECRET} and {ENV_SECRET_FILE} are both set; set one"
        raise ConfigError(path, "$.secret", detail)
    if env_secret is not None:
        return _checked_secret(path, f"{ENV_SECRET} in the environment", env_secret.encode()), []
    if env_file is not None:
        return _secret_from_file(path, f"{ENV_SECRET_FILE} in the environment", Path(env_file))
    if written.secret is not None and written.secret_file is not None:
        raise ConfigError(path, "$.secret_file", "secret and secret_file are both given; give one")
    if written.secret is not None:
        return _checked_secret(path, "$.secret", written.secret.encode()), []
    if written.secret_file is not None:
        return _secret_from_file(path, "$.secret_file", path.parent / written.secret_file)
    return None, []


def _checked_secret(path: Path, where: str, value: bytes) -> Secret:
    if len(value) < SECRET_BYTES_MIN:
        detail = (
            f"the secret has {len(value)} bytes; at least {SECRET_BYTES_MIN}, random "
            "(for instance: openssl rand -hex 32)"
        )
        raise ConfigError(path, where, detail)
    if len(value) > SECRET_BYTES_MAX:
        raise ConfigError(path, where, f"the secret has more than {SECRET_BYTES_MAX} bytes")
    return Secret(value)


def _secret_from_file(path: Path, where: str, secret_path: Path) -> tuple[Secret, list[str]]:
    try:
        with secret_path.open("rb") as file:
            value = file.read(SECRET_BYTES_MAX + 3)
            mode = stat.S_IMODE(secret_path.stat().st_mode)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(path, where, f"{str(secret_path)!r} cannot be read: {reason}") from None
    # An editor ends the last line; nobody means that newline to be part of the secret.
    secret = _checked_secret(path, where, value.rstrip(b"\r\n"))
    warnings = []
    if mode & stat.S_IROTH:
        warnings.append(
            f"{secret_path}: every user of this machine can read the secret (chmod 600)"
        )
    return secret, warnings


def _access(path: Path, written: _ClusterFile) -> Access | None:
    tls = written.http_tls
    try:
        if written.access is None:
            return None
        return access.checked(written.access, by_certificate=tls is not None and tls.ca is not None)
    except AccessError as error:
        raise ConfigError(path, f"$.access{error.where}", str(error)) from None


def _http_tls(path: Path, written: HttpTlsFile | None) -> HttpTls | None:
    """The form only, as `_tls`."""
    if written is None:
        return None
    try:
        return http_settings.tls(path.parent, written)
    except http_settings.HttpSettingError as error:
        raise ConfigError(path, f"$.http_tls.{error.name}", str(error)) from None


def _is_insecure(path: Path, written: str | None) -> bool:
    if written is not None and written != INSECURE:
        raise ConfigError(path, "$.insecure", f"is either not there or says: {INSECURE}")
    return written is not None


def _require_loopback(
    path: Path, nodes: tuple[NodeConfig, ...], *, secret: bool, access: bool
) -> None:
    """What can be reached from other machines is not open to everybody there, unless the file says so."""
    unless = f'or, if that is meant, write insecure: "{INSECURE}"'
    for number, node in enumerate(nodes):
        for kind, address in (("http", node.http), ("raft", node.raft)):
            where = f"$.nodes[{number}].{kind}"
            reachable = f"{str(address)!r} can be reached from other machines"
            if not address.is_loopback and not secret:
                detail = (
                    f"{reachable}, so the cluster needs a secret: set secret_file (or secret) in this file, or "
                    f"{ENV_SECRET_FILE} (or {ENV_SECRET}) in the environment; {unless}"
                )
                raise ConfigError(path, where, detail)
            if kind == "http" and not address.is_loopback and not access:
                detail = f"{reachable}, so say under access who may call; {unless}"
                raise ConfigError(path, where, detail)


def _survives(nodes: int) -> int:
    return (nodes - 1) // 2


def _warnings(nodes: tuple[NodeConfig, ...]) -> list[str]:
    warnings = []
    count = len(nodes)
    if count == 1:
        warnings.append(
            "the cluster has one node: it survives the loss of none, and is NOT available while that node or its machine is down; "
            "good for development; use three"
        )
    elif count % 2 == 0:
        warnings.append(
            f"the cluster has {count} nodes: it survives the loss of {_survives(count)}, just as {count - 1} would, "
            "and each grant waits for one disk more; use an odd number"
        )
    warnings += [
        f"{node.name}: {node.http} is where it listens, but no address that a client elsewhere can use"
        for node in nodes
        if node.http.is_unspecified
    ]
    return warnings
