"""What is wrong with a cluster, and what to do: two rounds of what its nodes tell of themselves become findings.

Rule: pure. Whatever is found names the nodes, what was seen, and what to do about it; what cannot be known from here is said to be
unknown, and never taken for good. Of two clocks only how fast they run against each other is compared, and only as far as
the time that the answers were on their way allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final, Literal

from holdfast.errors import HoldfastError, NotAllowed, Refused
from holdfast.reports import NodeReport
from holdfast.wire import Code

Severity = Literal["ok", "warning", "bad"]

SYNC_US_WARNING: Final = 20_000
"""Each grant waits for a sync on a majority: beyond this, people notice."""
SYNC_US_BAD: Final = 100_000
"""As long as a heartbeat: elections come of it."""
FREE_BYTES_WARNING: Final = 2 << 30
FREE_BYTES_BAD: Final = 512 << 20
"""A journal and two snapshots at the default limits fit; a full disk stops a node."""
CERTIFICATE_DAYS_WARNING: Final = 30
CERTIFICATE_DAYS_BAD: Final = 7
CLOCK_PART_WARNING: Final = 0.002
"""Crystals differ by a ten-thousandth at most; more is a fault, of a virtual machine mostly."""
CLOCK_PART_BAD: Final = 0.01
"""The margin of a client: beyond it, a holder may believe in its lease for longer than the cluster does."""
LAG_MS_BAD: Final = 1_000
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` is empty where nothing is to be done."""

    check: str
    severity: Severity
    nodes: tuple[str, ...]
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One look at all nodes. `silent`: address to why there was no report."""

    reports: tuple[NodeReport, ...]
    silent: Mapping[str, HoldfastError] = field(default_factory=dict)

    @property
    def by_node(self) -> dict[str, NodeReport]:
        return {report.node: report for report in self.reports}


def diagnose(first: Round, second: Round, *, now_ms: int) -> list[Finding]:
    """Everything that the two rounds tell, the bad first. `now_ms`: Unix milliseconds, for the certificates alone."""
    found: list[Finding] = []
    found += _answers(second)
    if second.reports:
        for check in _CHECKS:
            found += check(second)
        found += _clocks(first, second)
        found += _certificates(second, now_ms)
        found += _changes(first, second)
    order = {"bad": 0, "warning": 1, "ok": 2}
    return sorted(found, key=lambda finding: order[finding.severity])


def _answers(now: Round) -> list[Finding]:
    found = [
        Finding(
            "answers",
            "bad",
            (url,),
            str(why),
            _about(why),
        )
        for url, why in now.silent.items()
    ]
    if not now.reports:
        advice = "check --endpoints, and whether any node runs"
        return [*found, Finding("answers", "bad", (), "no node answered", advice)]
    return found or [Finding("answers", "ok", _names(now), "every node that was asked answered")]


def _about(why: HoldfastError) -> str:
    """What to do about a node that gave no report: it may be well, and only not tell us."""
    if isinstance(why, NotAllowed):
        return "it may be well: ask with a credential that may look at the cluster"
    if isinstance(why, Refused) and why.code == Code.NOT_FOUND:
        return "it may be well: its version is older than this question; upgrade it, or look at /v1/cluster"
    return "look at the node's log; start it, or repair the way to it"


def _cluster(now: Round) -> list[Finding]:
    names = sorted({str(report.raw["cluster"]) for report in now.reports})
    if len(names) == 1:
        return []
    seen = f"the addresses belong to different clusters: {', '.join(names)}"
    return [Finding("cluster", "bad", _names(now), seen, "give the addresses of one cluster")]


def _leader(now: Round) -> list[Finding]:
    leaders = sorted({report.leader for report in now.reports if report.leader is not None})
    lost = tuple(report.node for report in now.reports if report.leader is None)
    if not leaders:
        advice = "a majority of the nodes must run and reach each other; see the other findings"
        return [
            Finding("leader", "bad", lost, "no node knows a leader: nothing is granted", advice)
        ]
    if lost:
        advice = (
            "it is cut off from the leader: check the raft addresses and the network between them"
        )
        return [Finding("leader", "bad", lost, "knows no leader, although others do", advice)]
    if len(leaders) > 1:
        seen = f"nodes name different leaders: {', '.join(leaders)}"
        advice = "an election is under way; ask again, and if it stays so look at the network"
        return [Finding("leader", "warning", _names(now), seen, advice)]
    return [Finding("leader", "ok", (leaders[0],), f"{leaders[0]} leads")]


def _majority(now: Round) -> list[Finding]:
    """Whoever answers or is connected with somebody who does, counts as up."""
    members, up = members_of(now), up_of(now)
    down = tuple(sorted(members - up))
    needed = len(members) // 2 + 1
    spare = len(up) - needed
    if len(members) == 1:
        seen = "the cluster has one node: it survives the loss of none"
        return [
            Finding("majority", "warning", _names(now), seen, "use three nodes where it matters")
        ]
    if spare < 0:
        seen = (
            f"{len(up)} of {len(members)} nodes are up, and {needed} are needed: nothing is granted"
        )
        return [Finding("majority", "bad", down, seen, "start these nodes")]
    if spare == 0:
        seen = f"{len(up)} of {len(members)} nodes are up: the loss of one more stops the cluster"
        advice = "bring back what is down before anything else is done to the cluster"
        return [Finding("majority", "bad", down, seen, advice)]
    if down:
        return [Finding("majority", "bad", down, "is down; the others are enough", "start it")]
    return [Finding("majority", "ok", _names(now), f"up to {spare} nodes may be lost")]


def _connections(now: Round) -> list[Finding]:
    """Between two nodes that both answer: then neither is down."""
    cut = []
    by_node = now.by_node
    for one, other in combinations(sorted(by_node), 2):
        links = {peer["name"]: peer["connected"] for peer in by_node[one].raw["peers"]}
        if not links.get(other, True):
            cut.append(f"{one} and {other}")
    if not cut:
        return []
    advice = (
        "check the raft addresses, the firewall, the cluster secret and the certificates; "
        "holdfast_raft_frames_rejected_total and the nodes' logs say why one refuses the other"
    )
    seen = f"are not connected with each other: {'; '.join(cut)}"
    return [Finding("connections", "bad", tuple(cut), seen, advice)]


def _lag(now: Round) -> list[Finding]:
    behind = []
    for report in now.reports:
        lag_ms = report.raw["lag_ms"]
        if not report.ready or lag_ms is None or lag_ms > LAG_MS_BAD:
            told = "has not caught up since it was started" if lag_ms is None else f"{lag_ms} ms"
            behind.append(
                Finding(
                    "lag",
                    "bad",
                    (report.node,),
                    f"is behind: {told}",
                    "wait if it was just started; otherwise its disk, its processor or its network is too slow",
                )
            )
    return behind or [Finding("lag", "ok", _names(now), "every node is up to date")]


def _versions(now: Round) -> list[Finding]:
    versions = sorted({report.version for report in now.reports})
    if len(versions) > 1:
        seen = f"different versions run: {', '.join(versions)}"
        advice = "an upgrade is under way: finish it, one node after the other (docs/upgrading.md)"
        return [Finding("versions", "warning", _names(now), seen, advice)]
    return [Finding("versions", "ok", _names(now), f"all run {versions[0]}")]


def _levels(now: Round) -> list[Finding]:
    current = max(int(report.raw["format_levels"]["current"]) for report in now.reports)
    known = {report.node: int(report.raw["format_levels"]["max"]) for report in now.reports}
    common, highest = min(known.values()), max(known.values())
    if highest == current:
        return [Finding("format level", "ok", _names(now), f"the log is of level {current}")]
    if common == current:
        holds = tuple(name for name, level in known.items() if level == common)
        seen = f"the log is of level {current}; these know no higher one"
        advice = "upgrade them, or remove format_level_max from their configuration, once you will not go back"
    else:
        holds = tuple(sorted(members_of(now) - known.keys()))
        seen = f"the log is of level {current}, and could be of level {common}"
        advice = "every node of the configuration has to be connected with the leader at once: start those that are down"
    return [Finding("format level", "warning", holds, seen, advice)]


def _disks(now: Round) -> list[Finding]:
    found = []
    for report in now.reports:
        syncs, free = report.raw["syncs"], report.raw["storage"]["free_bytes"]
        slow = syncs["p99_us"]
        if syncs["count"] == 0:
            seen, advice = "has not synced anything yet", "ask again when it has done something"
            found.append(Finding("disk", "warning", (report.node,), seen, advice))
        elif slow > SYNC_US_WARNING:
            seen = (
                f"one sync in a hundred takes {slow / 1000:.1f} ms or more (the median "
                f"{syncs['median_us'] / 1000:.1f} ms, the longest {syncs['longest_us'] / 1000:.1f} ms)"
            )
            advice = "put data_dir on a faster disk, alone; often it is a disk over a network, or of a shared machine"
            severity: Severity = "bad" if slow > SYNC_US_BAD else "warning"
            found.append(Finding("disk", severity, (report.node,), seen, advice))
        if free is not None and free < FREE_BYTES_WARNING:
            seen = f"{free / 2**30:.2f} GiB are free where its data is"
            severity = "bad" if free < FREE_BYTES_BAD else "warning"
            advice = "make room: a node whose disk is full stops"
            found.append(Finding("disk space", severity, (report.node,), seen, advice))
    slowest = max(report.raw["syncs"]["p99_us"] for report in now.reports)
    seen = f"99 of 100 syncs take {slowest / 1000:.1f} ms or less on every node"
    return found or [Finding("disk", "ok", _names(now), seen)]


def _settings(now: Round) -> list[Finding]:
    found = []
    names = sorted({name for report in now.reports for name in report.raw["settings"]})
    for name in names:
        values: dict[str, list[str]] = {}
        for report in now.reports:
            values.setdefault(str(report.raw["settings"].get(name, "-")), []).append(report.node)
        if len(values) == 1:
            continue
        seen = f"{name} differs: " + "; ".join(
            f"{', '.join(nodes)}: {value}" for value, nodes in sorted(values.items())
        )
        advice = "give all nodes the same cluster.yml, and restart those that had another one"
        if name == "limits":
            advice += "; nodes with other limits (or quotas) refuse each other"
        severity: Severity = "bad" if name == "limits" else "warning"
        found.append(Finding("settings", severity, _names(now), seen, advice))
    return found or [Finding("settings", "ok", _names(now), "no differences between the nodes")]


def clock_rate(
    one: tuple[NodeReport, NodeReport], other: tuple[NodeReport, NodeReport]
) -> tuple[float, float]:
    """Between which two numbers the clock of one node runs, as a multiple of the other's; each was asked twice.

    A node read its clock some time between question and answer. So its clock advanced by a known amount in a time that lies between
    two bounds, which are as far apart as the two answers were long on their way; against the other's, the bounds divide.
    """
    slow, fast = _rate(*one)
    other_slow, other_fast = _rate(*other)
    return slow / other_fast, fast / other_slow


def _rate(first: NodeReport, second: NodeReport) -> tuple[float, float]:
    advanced = second.clock - first.clock
    longest = second.answered_at - first.asked_at
    shortest = second.asked_at - first.answered_at
    return advanced / longest, advanced / shortest


def _clocks(first: Round, second: Round) -> list[Finding]:
    before, after = first.by_node, second.by_node
    pairs = {
        name: (before[name], after[name])
        for name in sorted(before.keys() & after.keys())
        if after[name].raw["boot"] == before[name].raw["boot"]
        and after[name].asked_at > before[name].answered_at
        and after[name].clock > before[name].clock
    }
    found: list[Finding] = []
    widest = 0.0
    for one, other in combinations(pairs, 2):
        slow, fast = clock_rate(pairs[one], pairs[other])
        widest = max(widest, fast - 1, 1 - slow)
        # What is certain: the bound that is nearer to 1.
        apart = max(slow - 1, 1 - fast)
        if apart > CLOCK_PART_WARNING:
            seen = f"their clocks run apart by {apart:.2%} at least"
            advice = (
                "mend the clock of the machine that is wrong (see chronyc tracking, or its clock source). "
                f"Beyond {CLOCK_PART_BAD:.0%} holders may believe in a lease for too long: take it out of the cluster"
            )
            severity: Severity = "bad" if apart > CLOCK_PART_BAD else "warning"
            found.append(Finding("clocks", severity, (one, other), seen, advice))
    if found or len(pairs) < 2:
        return found
    seen = f"no two clocks run apart by more than {widest:.2%}"
    if widest > CLOCK_PART_BAD:
        seen += ", which says little: the answers took too long"
        advice = "measure for longer (--seconds)"
        return [Finding("clocks", "warning", tuple(pairs), seen, advice)]
    return [Finding("clocks", "ok", tuple(pairs), seen)]


def _certificates(now: Round, now_ms: int) -> list[Finding]:
    found, seen_any = [], False
    for report in now.reports:
        for certificate in report.raw["certificates"]:
            seen_any = True
            what = f"{certificate['use']} ({certificate['file']})"
            if certificate["not_after_ms"] is None:
                seen, advice = f"{what}: {certificate['error']}", "put the file back"
                found.append(Finding("certificates", "bad", (report.node,), seen, advice))
                continue
            days = (certificate["not_after_ms"] - now_ms) / DAY_MS
            if days < CERTIFICATE_DAYS_WARNING:
                told = "has ended" if days < 0 else f"ends in {days:.1f} days"
                severity: Severity = "bad" if days < CERTIFICATE_DAYS_BAD else "warning"
                advice = "put a new one in its place: it is taken for the next connection, without a restart"
                found.append(
                    Finding("certificates", severity, (report.node,), f"{what} {told}", advice)
                )
    if found or not seen_any:
        return found
    seen = f"none ends within {CERTIFICATE_DAYS_WARNING} days"
    return [Finding("certificates", "ok", _names(now), seen)]


def _changes(first: Round, second: Round) -> list[Finding]:
    """What should stand still, and did not between the two looks."""
    found = []
    before = first.by_node
    for report in second.reports:
        earlier = before.get(report.node)
        if earlier is None or earlier.raw["boot"] != report.raw["boot"]:
            continue
        if report.raw["leader_changes"] > earlier.raw["leader_changes"]:
            seen, advice = (
                "another leader came while we looked",
                "if it happens again: slow disks, a busy machine or the network",
            )
            found.append(Finding("leader changes", "warning", (report.node,), seen, advice))
        if report.raw["stalls"] > earlier.raw["stalls"]:
            seen, advice = (
                "its process was held up for half an election time",
                "give it a processor that it does not share",
            )
            found.append(Finding("stalls", "warning", (report.node,), seen, advice))
    return found


def members_of(now: Round) -> set[str]:
    """Every node that one that answers has in its configuration."""
    peers: set[str] = {peer["name"] for report in now.reports for peer in report.raw["peers"]}
    return peers | set(_names(now))


def up_of(now: Round) -> set[str]:
    """Those that answer, and those that are connected with one that does."""
    up = set(_names(now))
    for report in now.reports:
        up |= {peer["name"] for peer in report.raw["peers"] if peer["connected"]}
    return up


def has_majority(now: Round) -> bool:
    """Whether enough nodes are up for locks to be granted."""
    return 2 * len(up_of(now)) > len(members_of(now))


def _names(now: Round) -> tuple[str, ...]:
    return tuple(report.node for report in now.reports)


_CHECKS: Final[Sequence[Callable[[Round], list[Finding]]]] = (
    _cluster,
    _leader,
    _majority,
    _connections,
    _lag,
    _versions,
    _levels,
    _disks,
    _settings,
)


def as_json(finding: Finding) -> dict[str, Any]:
    """For scripts."""
    return {
        "check": finding.check,
        "severity": finding.severity,
        "nodes": list(finding.nodes),
        "seen": finding.seen,
        "advice": finding.advice or None,
    }
