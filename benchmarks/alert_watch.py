"""What Prometheus and Alertmanager say of a server, and how long they take to say it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from deploy.monitoring import DEPLOY, Addresses

POLL_SECONDS = 0.2
LIMIT_SECONDS = 900.0
_DASHBOARD = DEPLOY / "grafana" / "dashboards" / "steerd.json"
# The dashboard's variables with everything chosen.
_CHOSEN = {"$__rate_interval": "5m", "$job": "steerd", "$instance": ".*", "$sae": ".*"}


class AlertWatch:
    """Asks both over HTTP."""

    def __init__(self, addresses: Addresses) -> None:
        self._prometheus = f"http://{addresses.prometheus}/api/v1"
        self._alertmanager = f"http://{addresses.alertmanager}/api/v2"

    def series(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of an instant query, numbers only."""
        found = _get(f"{self._prometheus}/query?query={quote(expression)}")["data"]["result"]
        pairs = [(series["metric"], float(series["value"][1])) for series in found]
        return [(labels, value) for labels, value in pairs if not math.isnan(value)]

    def panel(self, title: str) -> dict[str, float]:
        """What a panel of the dashboard shows now of each watched feature, by alias."""
        expression = panel_expression(title)
        return {labels["alias"]: value for labels, value in self.series(expression)}

    def is_firing(self, alert: str) -> bool:
        """Whether the rule fires in Prometheus."""
        return self.series(f'ALERTS{{alertname="{alert}", alertstate="firing"}}') != []

    def has_arrived(self, alert: str) -> bool:
        """Whether Alertmanager has the alert, not resolved; one that another inhibits counts too."""
        matcher = quote(f'alertname="{alert}"')
        return bool(_get(f"{self._alertmanager}/alerts?active=true&inhibited=true&filter={matcher}"))

    def waiting_time(self, alert: str) -> float:
        """The `for` of a rule as it runs, in seconds."""
        groups = _get(f"{self._prometheus}/rules?type=alert")["data"]["groups"]
        (rule,) = (rule for group in groups for rule in group["rules"] if rule["name"] == alert)
        return float(rule["duration"])


def panel_expression(title: str) -> str:
    """The first expression of a panel, variables chosen."""
    panels = json.loads(_DASHBOARD.read_text(encoding="utf-8"))["panels"]
    (panel,) = (panel for panel in panels if panel["title"] == title)
    expression = str(panel["targets"][0]["expr"])
    for variable, value in _CHOSEN.items():
        expression = expression.replace(variable, value)
    return expression


def seconds_until(condition: Callable[[], bool], *, since: float) -> float:
    """Seconds from `since` (time.monotonic()) until it holds; TimeoutError after a quarter of an hour."""
    while not condition():
        if time.monotonic() - since > LIMIT_SECONDS:
            raise TimeoutError(f"nothing came within {LIMIT_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - since


def _get(url: str) -> Any:
    with urlopen(url, timeout=30) as reply:
        return json.load(reply)
