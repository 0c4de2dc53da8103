"""Makes the Grafana dashboard: `python deploy/monitoring/make_dashboard.py > deploy/monitoring/dashboard.json`.

Rule: dashboard.yml says what the panels show, in its order; this knows only how Grafana wants it written. A test compares the two.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any, Final

import yaml

PANELS_FILE: Final = Path(__file__).with_name("dashboard.yml")

GRID_COLUMNS: Final = 24
"""Of Grafana's grid."""
PANELS_PER_LINE: Final = 3
PANEL_WIDTH: Final = GRID_COLUMNS // PANELS_PER_LINE
PANEL_HEIGHT: Final = 8
ROW_HEIGHT: Final = 1

SHORT_FORMS: Final = {"C": 'cluster=~"$cluster"', "I": "[$__rate_interval]"}
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What Grafana reads, of `rows` as dashboard.yml has them."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        panels.append(_row(row["title"], len(panels) + 1, top))
        top += ROW_HEIGHT
        for place, panel in enumerate(row["panels"]):
            line, column = divmod(place, PANELS_PER_LINE)
            panels.append(_panel(panel, len(panels) + 1, column, top + line * PANEL_HEIGHT))
        top += -(-len(row["panels"]) // PANELS_PER_LINE) * PANEL_HEIGHT
    return {
        "uid": "holdfast",
        "title": "Holdfast",
        "tags": ["holdfast"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource_choice(), _cluster_choice()]},
        "panels": panels,
    }


def _row(title: str, number: int, top: int) -> dict[str, Any]:
    position = {"x": 0, "y": top, "w": GRID_COLUMNS, "h": ROW_HEIGHT}
    return {
        "type": "row",
        "title": title,
        "id": number,
        "collapsed": False,
        "panels": [],
        "gridPos": position,
    }


def _panel(panel: dict[str, Any], number: int, column: int, top: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel["title"],
        "description": panel["text"],
        "datasource": DATASOURCE,
        "gridPos": {"x": column * PANEL_WIDTH, "y": top, "w": PANEL_WIDTH, "h": PANEL_HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": string.ascii_uppercase[place],
                "datasource": DATASOURCE,
                "expr": string.Template(query["expr"]).safe_substitute(SHORT_FORMS),
                "legendFormat": query["legend"],
            }
            for place, query in enumerate(panel["queries"])
        ],
    }


def _datasource_choice() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }


def _cluster_choice() -> dict[str, Any]:
    query = "label_values(holdfast_build_info, cluster)"
    return {
        "name": "cluster",
        "label": "Cluster",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "cluster"},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def render() -> str:
    """dashboard.json."""
    rows = yaml.safe_load(PANELS_FILE.read_text())["rows"]
    return json.dumps(dashboard(rows), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
