"""`steerd compare` against a server with the planted host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from steerd.__main__ import main
from steerd.cli.answer_tables import no_flip_line
from steerd.config import NamedTable
from steerd.studies.answers.result import AnswerComparison, AnswerScore
from tests.planted_host import FEATURES
from tests.server.planted_server import planted_server
from tests.server.running_server import RunningServer

E, F = (f"early:{FEATURES[name].index}" for name in "EF")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with planted_server() as running:
        yield running


def compare(server: RunningServer, text: str, *options: str) -> int:
    answers = ["--right", "Y", "--wrong", "Z", "--additions", "0"]
    return main(["compare", "--raw", text, *answers, *options, "--address", server.address])


def test_features_and_flip_are_printed(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(server, "xABEF?", "--sae", "early", "--control", "abcd") == 0

    output = capsys.readouterr().out
    assert re.search(rf"{E} .*planted E.*'E'.*1\.00.*\+5\.\d\d.*wrong", output)
    assert re.search(rf"ablate {E} .*-\d\.\d+", output)
    assert re.search(rf"ablate {F} ", output)
    assert "side effect on 'abcd': mean divergence" in output
    assert "another next token after 0% of 4 tokens" in output


def test_json_has_every_figure(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(server, "xABEF?", "--sae", "early", "--features", "5", "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert sorted(member["intervention"] for member in found["flip"]["members"]) == sorted(
        [f"ablate {E}", f"ablate {F}"]
    )
    assert found["complete"] is True
    assert len(found["features"]) == 5
    assert len(found["flip"]["controls"]) == 3


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("xAB?", [], "the right answer is the likelier one as it is"),
        ("x*?", ["--wrong", "."], "sets of interventions makes the right answer win"),
    ],
)
def test_without_a_flip_the_reason_is_told(
    server: RunningServer, capsys: pytest.CaptureFixture[str], text: str, options: list[str], said: str
) -> None:
    assert compare(server, text, *options) == 0

    assert said in capsys.readouterr().out


def test_what_a_study_that_was_ended_early_does_not_know_is_told() -> None:
    """Both scores are known and nothing else."""
    right, wrong = AnswerScore(-2.0, 1.0, 1), AnswerScore(-1.0, 2.0, 1)
    part = AnswerComparison(False, ("a",), right, wrong)

    assert (
        no_flip_line(right, wrong, part)
        == "what makes the right answer win is not known yet: 0 sets were tried"
    )
    assert no_flip_line(right, wrong, replace(part, complete=True)).startswith("none of 0 sets")
    assert no_flip_line(wrong, right, part) == "the right answer is the likelier one as it is"


def test_what_a_policy_forbids_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    policy = NamedTable(name="p", version="1", table={"name": "p", "version": "1", "allow": {"features": []}})
    with planted_server(policies=(policy,)) as forbidding:
        assert compare(forbidding, "xABEF?") == 0

        said = capsys.readouterr()
        told = re.findall(
            r"left out ablate (\S+): policy p@1 does not allow edits of feature (\S+)", said.err
        )
        assert len(told) == 5
        assert all(edit == forbidden for edit, forbidden in told)
        assert "more, see --json" in said.err
        assert "none of 0 sets" in said.out
        assert compare(forbidding, "xABEF?", "--json") == 0
    left_out = json.loads(capsys.readouterr().out)["left_out"]
    assert [f"ablate {E}"] in [each["interventions"] for each in left_out]


def test_the_request_is_steered_as_others_are(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(server, "xABEF?", "--sae", "early", "--ablate", F) == 0

    output = capsys.readouterr().out
    assert "Receipt" in output
    assert "The right answer wins with" in output
    assert f"ablate {E} " in output.partition("wins with")[2]
    assert f"ablate {F} " not in output.partition("wins with")[2]
