"""The dashboard and the rules on a real Prometheus that scrapes a real server after a script of requests."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.monitoring import DEPLOY, Addresses, watchers
from steerd.cli.server_process import free_ports
from tests.debian_tools import debian_tool
from tests.deploy.expressions import (
    DASHBOARD,
    metric_names,
    other_expressions,
    panel_expressions,
    panels,
    record_expressions,
)
from tests.deploy.loaded_server import CALLS, loaded_server, run_script
from tests.waiting import wait_until

HURRY = 15.0  # a scrape and an evaluation each second


@dataclass(frozen=True)
class Watched:
    """A Prometheus that has seen a server before, during and after its load."""

    prometheus: str
    sample_names: frozenset[str]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query; fails with Prometheus's words when it is no query."""
        try:
            with urlopen(
                f"http://{self.prometheus}/api/v1/query?query={quote(expression)}", timeout=60
            ) as reply:
                found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
        except HTTPError as error:
            pytest.fail(f"{expression}\n{error.read().decode()}")
        return found

    def numbers(self, expression: str) -> list[float]:
        """The values of an instant query that are numbers."""
        values = [float(series["value"][1]) for series in self.ask(expression)]
        return [value for value in values if not math.isnan(value)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    debian_tool("prometheus")
    with loaded_server(tmp_path_factory.mktemp("watched")) as server:
        prometheus, alertmanager = (f"127.0.0.1:{port}" for port in free_ports(2))
        with watchers(Addresses(server.metrics, prometheus, alertmanager), hurry=HURRY):
            before = Watched(prometheus, frozenset())
            wait_until(lambda: before.numbers("steerd_engine_steps_total") == [0.0])
            run_script(server.address)
            ended = 'sum(grpc_server_handled_total{grpc_method=~"Generate|Score"})'
            wait_until(lambda: before.numbers(ended) == [CALLS])
            wait_until(lambda: before.numbers("job:steerd_requests_bad:ratio_rate5m > 0") != [])
            # A change shows from the second sample on.
            twice = [f"count_over_time({record}[1h]) > 1" for record, _ in record_expressions()]
            wait_until(lambda: all(before.numbers(expression) for expression in twice))
            families = text_string_to_metric_families(server.page())
            yield Watched(
                prometheus, frozenset(sample.name for family in families for sample in family.samples)
            )


@pytest.mark.parametrize(("panel", "expression"), panel_expressions(), ids=lambda text: text[:50])
def test_each_panel_shows_something(watched: Watched, panel: str, expression: str) -> None:
    assert watched.numbers(expression) != [], f"{panel} is empty: {expression}"


@pytest.mark.parametrize(("name", "expression"), record_expressions(), ids=lambda text: text[:50])
def test_each_recording_rule_records(watched: Watched, name: str, expression: str) -> None:
    assert watched.numbers(expression) != []
    wait_until(lambda: watched.numbers(name) != [])


@pytest.mark.parametrize(("name", "expression"), other_expressions(), ids=lambda text: text[:50])
def test_alerts_and_annotations_can_be_asked(watched: Watched, name: str, expression: str) -> None:
    assert isinstance(watched.ask(expression), list), name


def test_every_metric_that_is_asked_for_is_exported(watched: Watched) -> None:
    made_by_prometheus = {"up", "scrape_duration_seconds", "scrape_samples_scraped"}
    asked = [*panel_expressions(), *record_expressions(), *other_expressions()]

    names = set().union(*(metric_names(expression) for _, expression in asked))

    assert names - made_by_prometheus - watched.sample_names == set()
    assert len(names) > 30


def test_no_series_that_the_load_must_move_stands_still(watched: Watched) -> None:
    """Else the panels' zeros would prove little."""
    for outcome in ("ok", "cancelled", "rejected", "invalid", "timeout"):
        assert sum(watched.numbers(f'increase(steerd_requests_total{{outcome="{outcome}"}}[5m])')) > 0, (
            outcome
        )
    for mode in ("add", "set", "scale", "ablate"):
        edits = f'increase(steerd_steering_applied_tokens_total{{mode="{mode}"}}[5m])'
        assert sum(watched.numbers(edits)) > 0, mode
    for metric in ("active_tokens", "threshold_exceeded"):
        assert sum(watched.numbers(f"increase(steerd_feature_{metric}_total[5m])")) > 0, metric


def test_a_name_is_told_from_labels_functions_and_records() -> None:
    expression = (
        'sum by (grpc_code) (rate(grpc_server_handled_total{grpc_type="steerd_no"}[5m])) '
        "/ on (process_id) up + job:steerd_requests_bad:ratio_rate5m"
    )

    assert metric_names(expression) == {"grpc_server_handled_total", "up"}


def test_the_rows_are_those_an_operator_looks_for() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]

    assert rows == ["Service", "Engine", "Steering", "Features"]


def test_each_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in panels():
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert "unit" in (panel["options"].get("yAxis") or panel["fieldConfig"]["defaults"]), panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert "rate(" not in target["expr"] or "$__rate_interval" in target["expr"], panel["title"]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = Counter(panel["id"] for panel in DASHBOARD["panels"])
    cells = [(panel["title"], covered(panel["gridPos"])) for panel in DASHBOARD["panels"]]

    assert max(ids.values()) == 1
    assert all(x < 24 for _, cell in cells for x, _ in cell)
    assert [(a, b) for (a, one), (b, other) in combinations(cells, 2) if one & other] == []


def covered(place: dict[str, int]) -> set[tuple[int, int]]:
    """The cells of the dashboard's grid that a panel lies on."""
    return {
        (x, y)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    }


def test_the_dashboard_and_its_data_source_are_provisioned() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "steerd.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "steerd.yml").read_text())["providers"]
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

    assert source["url"] == f"http://{Addresses().prometheus}"
    assert source["uid"] == variables["datasource"]["current"]["value"]
    assert provider["options"]["path"].endswith("/dashboards/steerd")
    assert set(variables) == {"datasource", "job", "instance", "sae"}
