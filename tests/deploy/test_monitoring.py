"""Alerts and dashboard: valid, about metrics that exist, and each alert with a section in the runbook."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import promql_parser
import pytest
import yaml
from kit import KIT, ROOT, run

from holdfast.cli.app import command

if TYPE_CHECKING:
    from collections.abc import Iterator

ALERTS = KIT / "monitoring" / "alerts.yml"
DASHBOARD = KIT / "monitoring" / "dashboard.json"
OF_PROMETHEUS = frozenset({"up"})
"""What Prometheus itself records of each target."""


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    return [p for p in json.loads(DASHBOARD.read_text())["panels"] if p["type"] != "row"]


def queries() -> list[str]:
    """Of the dashboard, with Grafana's variables filled in."""
    return [
        target["expr"].replace("$__rate_interval", "1m").replace("$cluster", ".*")
        for panel in panels()
        for target in panel["targets"]
    ]


def metrics_of(query: str) -> frozenset[str]:
    """The metrics that a PromQL query names. Raises ValueError if it is not PromQL."""
    return frozenset(_names(promql_parser.parse(query)))


def _names(node: Any) -> Iterator[str]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name
    parts = [
        getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param")
    ]
    parts += list(getattr(node, "args", None) or ())
    for part in parts:
        if part is not None:
            yield from _names(part)


def test_the_metrics_of_a_query_are_found() -> None:
    """In aggregations, functions, ranges and both sides of an operator: the checks below are worth something."""
    query = 'histogram_quantile(0.9, sum by (le) (rate(a_bucket{x="1"}[5m]))) > 1 and on (i) max(b) / (c + d) < 3'
    assert metrics_of(query) == {"a_bucket", "b", "c", "d"}
    with pytest.raises(ValueError, match=r".+"):
        metrics_of("sum(")


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_about_metrics_that_a_node_exports(
    rule: dict[str, Any], exported: frozenset[str]
) -> None:
    found = metrics_of(rule["expr"])
    assert found
    assert found <= exported | OF_PROMETHEUS


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    """A severity, a sentence, and the section of the runbook that bears its name."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_every_alert_has_its_section_in_the_runbook_and_no_section_is_left_over() -> None:
    """Each with what it means, what to look at, and what to do."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    sections = dict(
        re.findall(r"^## (Holdfast\w+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    )
    assert sorted(sections) == sorted(rule["alert"] for rule in rules())
    for name, section in sections.items():
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in section, f"{name} lacks {part}"


def test_what_the_runbook_looks_at_exists(exported: frozenset[str]) -> None:
    """Metrics that it names are exported."""
    named = set(re.findall(r"`(holdfast_[a-z_]+)", (ROOT / "docs" / "runbook.md").read_text()))
    histograms = {name.removesuffix("_bucket") for name in exported if name.endswith("_bucket")}
    assert named
    assert named <= exported | histograms


def test_the_dashboard_is_made_from_its_table() -> None:
    """Renew it with `python deploy/monitoring/make_dashboard.py > deploy/monitoring/dashboard.json`."""
    made = runpy.run_path(str(KIT / "monitoring" / "make_dashboard.py"))["render"]()
    assert DASHBOARD.read_text() == made


def test_the_dashboard_asks_for_metrics_that_a_node_exports(exported: frozenset[str]) -> None:
    for query in queries():
        assert metrics_of(query) <= exported, query


def test_the_dashboard_shows_nearly_everything_that_a_node_tells(exported: frozenset[str]) -> None:
    """A new metric is put on it, or is named here as one that people do not look at."""
    left_out = {
        "holdfast_build_info", "holdfast_raft_leader_known", "holdfast_token_last", "holdfast_log_entries",
        "holdfast_journal_segments", "holdfast_snapshot_index", "holdfast_trail_revision", "holdfast_trail_first_revision",
    }  # fmt: skip
    own = {name for name in exported if name.startswith("holdfast_")}
    ends = ("_bucket", "_sum", "_count")
    shown = frozenset().union(*(metrics_of(query) for query in queries()))
    families = {name.removesuffix(end) for end in ends for name in shown if name.endswith(end)}
    unseen = {
        name
        for name in own - shown - left_out
        if not any(name.removesuffix(end) in families for end in ends)
    }
    assert unseen == set()


def test_no_panels_overlap_and_each_explains_itself() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["description"].endswith(".")


def test_promtool_takes_the_rules_and_their_stories_come_true() -> None:
    """alerts_test.yml: what must, and what must not, come of nodes that die, of elections, of slow disks."""
    run("promtool", "check", "rules", str(ALERTS))
    run("promtool", "test", "rules", "alerts_test.yml", cwd=KIT / "monitoring")


def test_promtool_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    """As rules, since promtool reads no dashboards."""
    recorded = [{"record": f"q{n}", "expr": query} for n, query in enumerate(queries())]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    run("promtool", "check", "rules", str(file))


def test_promtool_takes_the_configuration_of_the_compose_file(tmp_path: Path) -> None:
    """With the rules beside it, as they are mounted there."""
    config = KIT / "compose" / "prometheus.yml"
    (tmp_path / "prometheus.yml").write_text(config.read_text())
    (tmp_path / "alerts.yml").write_text(ALERTS.read_text())
    run("promtool", "check", "config", str(tmp_path / "prometheus.yml"))


def test_the_commands_of_the_runbook_exist() -> None:
    """Whoever is woken at night types what stands there."""
    named = re.findall(
        r"`holdfast ([a-z-]+)(?: ([a-z]+))?", (ROOT / "docs" / "runbook.md").read_text()
    )
    assert named
    for name, second in named:
        assert name in command.commands, name
        group = command.commands[name]
        if second and isinstance(group, click.Group):
            assert second in group.commands, f"{name} {second}"
