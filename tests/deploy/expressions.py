"""The PromQL of deploy/: what the dashboard, its annotations and the rules ask, ready to be asked."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from deploy.monitoring import DEPLOY

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "steerd.json").read_text())
# What Grafana puts in for the dashboard's variables when all of everything is chosen.
CHOSEN = {"$__rate_interval": "5m", "$job": "steerd", "$instance": ".*", "$sae": ".*"}

_NAME = re.compile(r"(?<![\w:])((?:steerd|grpc|process|python)_[a-z0-9_]+|up|scrape_[a-z_]+)(?![\w:(])")
_LABELS = re.compile(r'\{[^{}]*\}|\b(?:by|on|ignoring|group_left|group_right)\s*\([^()]*\)|"[^"]*"')


def panels() -> list[dict[str, Any]]:
    """The panels that ask something, in their order."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def panel_expressions() -> list[tuple[str, str]]:
    """Panel and expression, variables chosen."""
    return [(panel["title"], chosen(target["expr"])) for panel in panels() for target in panel["targets"]]


def record_expressions() -> list[tuple[str, str]]:
    """Name and expression of the recording rules."""
    return [(rule["record"], rule["expr"]) for rule in rules("recording_rules.yml")]


def other_expressions() -> list[tuple[str, str]]:
    """Name and expression of what may find nothing: annotations and alerts."""
    annotations = DASHBOARD["annotations"]["list"]
    return [
        *((annotation["name"], chosen(annotation["expr"])) for annotation in annotations),
        *((rule["alert"], rule["expr"]) for rule in rules("alert_rules.yml")),
    ]


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a file, whatever their group."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def chosen(expression: str) -> str:
    """The expression without variables."""
    for variable, value in CHOSEN.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, f"a variable that nobody sets: {expression}"
    return expression


def metric_names(expression: str) -> set[str]:
    """The metrics that are scraped, so without those that rules record."""
    return set(_NAME.findall(_LABELS.sub("", expression)))
