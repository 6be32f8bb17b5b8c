"""The files of Prometheus and Alertmanager, as their own checkers see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring import DEPLOY, hurried
from tests.debian_tools import complaints, debian_tool

PROMETHEUS = DEPLOY / "prometheus"
RULES = sorted(PROMETHEUS.glob("*_rules.yml"))
RULE_TESTS = sorted(PROMETHEUS.glob("*_test.yml"))


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((PROMETHEUS / "alert_rules.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def test_prometheus_accepts_its_configuration() -> None:
    assert complaints(debian_tool("promtool"), "check", "config", str(PROMETHEUS / "prometheus.yml")) == ""


def test_alertmanager_accepts_its_configuration() -> None:
    path = DEPLOY / "alertmanager" / "alertmanager.yml"

    assert complaints(debian_tool("amtool"), "check-config", str(path)) == ""


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_the_rules_are_rules(path: Path) -> None:
    assert complaints(debian_tool("promtool"), "check", "rules", "--lint-fatal", str(path)) == ""


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_they_say(path: Path) -> None:
    assert complaints(debian_tool("promtool"), "test", "rules", str(path)) == ""


def test_a_rule_that_does_something_else_is_found(tmp_path: Path) -> None:
    for path in PROMETHEUS.glob("*.yml"):
        (tmp_path / path.name).write_text(path.read_text().replace("> 0.05", "> 0.5"))

    found = complaints(debian_tool("promtool"), "test", "rules", str(tmp_path / "alert_rules_test.yml"))

    assert "SteerdWatchedFeatureHot" in found


def test_each_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    cases = yaml.safe_load((PROMETHEUS / "alert_rules_test.yml").read_text())["tests"]
    asked = [case for test in cases for case in test["alert_rule_test"]]

    names = {alert["alert"] for alert in alerts()}

    assert names == {case["alertname"] for case in asked if case["exp_alerts"]}
    assert names == {case["alertname"] for case in asked if not case["exp_alerts"]}


def test_each_alert_has_a_receiver_and_says_what_to_do() -> None:
    route = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())["route"]
    routed = {matcher for child in route["routes"] for matcher in child["matchers"]}

    for alert in alerts():
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert set(alert["annotations"]) == {"summary", "description"}
    assert routed == {'severity="page"'}


def test_hurrying_divides_what_is_waited_for_and_nothing_else() -> None:
    rule = "record: a:ratio_rate5m\nexpr: rate(a_total[5m]) > 30\nfor: 1h\nrepeat_interval: 12h\nx: 5m\n"

    assert hurried(rule, 20) == (
        "record: a:ratio_rate5m\nexpr: rate(a_total[15000ms]) > 30\nfor: 180000ms\n"
        "repeat_interval: 2160000ms\nx: 5m\n"
    )


def test_hurried_files_are_valid_too(tmp_path: Path) -> None:
    for path in (*PROMETHEUS.glob("*.yml"), DEPLOY / "alertmanager" / "alertmanager.yml"):
        (tmp_path / path.name).write_text(hurried(path.read_text(), 7))

    assert complaints(debian_tool("promtool"), "check", "config", str(tmp_path / "prometheus.yml")) == ""
    assert complaints(debian_tool("amtool"), "check-config", str(tmp_path / "alertmanager.yml")) == ""
