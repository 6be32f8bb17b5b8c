from __future__ import annotations

from pathlib import Path

import pytest

from sae_train.report.run_files import ReportError, find_saes, read_log


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with two SAEs, as far as names go."""
    for name in ("b", "a"):
        (tmp_path / "saes" / name).mkdir(parents=True)
        (tmp_path / "saes" / name / "cfg.json").touch()
    (tmp_path / "config.toml").touch()
    return tmp_path


def test_a_runs_folder_stands_for_all_its_saes(run: Path) -> None:
    found = find_saes(run)

    assert [(sae.name, sae.run) for sae in found] == [("a", run), ("b", run)]


def test_one_sae_is_chosen_by_name_or_by_its_folder(run: Path) -> None:
    assert find_saes(run, "b") == find_saes(run / "saes" / "b") == find_saes(run)[1:]


def test_a_folder_without_a_run_is_an_sae_alone(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").touch()

    (sae,) = find_saes(tmp_path)

    assert sae.run is None


@pytest.mark.parametrize(
    ("place", "chosen", "words"),
    [
        ("", "c", "no SAE is called 'c'; there are a, b"),
        ("saes/a", "a", "one SAE's folder"),
        ("saes", None, "expected an SAE's folder with cfg.json, or a run's with saes/"),
    ],
)
def test_what_names_no_sae_is_refused(run: Path, place: str, chosen: str | None, words: str) -> None:
    with pytest.raises(ReportError, match=words):
        find_saes(run / place, chosen)


def test_a_log_is_read_up_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "step"}\n{"event": "evaluation"}\n{"event": "st')

    assert [record["event"] for record in read_log(tmp_path)] == ["step", "evaluation"]
    assert read_log(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("line", ["{", "[]"])
def test_a_damaged_line_of_a_log_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text(f'{{"event": "step"}}\n{line}\n{{}}\n')

    with pytest.raises(ReportError, match=r"log\.jsonl line 2"):
        read_log(tmp_path)
