from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import sae_train.report.report
from sae_train.__main__ import main
from sae_train.report.make_reports import Request, make_reports
from sae_train.report.run_files import ReportError
from steerd.sae.sae_file import load_sae
from tests.sae_train.report.page_parts import PageParts
from tests.sae_train.report.small_run import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two SAEs, its activation cache and its host."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    return folder


@pytest.fixture(scope="module")
def parts(run: Path) -> PageParts:
    """The page of one of them, made as the command makes it."""
    assert main(["report", str(run)]) == 0
    return PageParts.of((run / "reports" / "one.html").read_text(encoding="utf-8"))


def test_a_run_gives_a_page_for_each_sae(run: Path, parts: PageParts) -> None:
    assert {path.name for path in (run / "reports").iterdir()} == {"one.html", "two.html"}
    assert "trained as batch_topk, served as standard" in parts.text


def test_the_table_shows_the_files_numbers(run: Path, parts: PageParts) -> None:
    bundle = load_sae(run / "saes" / "one")
    statistics, notes = bundle.statistics, bundle.notes
    assert statistics is not None
    assert notes is not None
    columns, texts = parts.data("columns"), parts.data("tokens")["texts"]

    assert columns["density"] == pytest.approx(statistics.density.tolist(), rel=1e-5)
    assert columns["max"] == pytest.approx(statistics.max_activation.tolist(), rel=1e-5)
    assert columns["mean"] == pytest.approx(statistics.mean_activation.tolist(), rel=1e-5)
    assert columns["label"] == [note.label for note in notes]
    assert [texts[t] for t in columns["tokens"][0]] == [t.replace("\n", "↵") for t in notes[0].top_tokens]


def test_each_feature_has_its_evidence(run: Path, parts: PageParts) -> None:
    statistics = load_sae(run / "saes" / "one").statistics
    assert statistics is not None
    rows = parts.data("columns")["rows"]

    assert len(parts.details) == 33
    for feature, details in enumerate(parts.details[:32]):
        density = float(statistics.density[feature])
        assert sum(details["histogram"]) == pytest.approx(density * rows, abs=0.5)
        _, active, peak = details["top"][0]
        strongest = dict(zip(active[::2], active[1::2], strict=True))[peak]
        assert strongest == pytest.approx(float(statistics.max_activation[feature]), rel=1e-2)
        assert len(details["top"]) == 10
        assert len(details["sampled"]) == 8
        assert len(details["promoted"]) == len(details["suppressed"]) == 10
        assert details["promoted"][0][1] > 0 > details["suppressed"][0][1]
        assert feature not in [other for other, _ in details["neighbours"]]
    assert parts.details[32]["top"] == []


def test_the_overview_has_curves_and_the_frontier(parts: PageParts) -> None:
    overview = parts.data("overview")

    (curve,) = overview["curves"]
    assert (curve["name"], curve["title"]) == ("mse", "Mean squared error")
    assert curve["values"] == pytest.approx([1, 0.5, 1 / 3, 0.25, 0.2], rel=1e-5)
    assert [(p["name"], p["l0"], p["this"]) for p in overview["frontier"]] == [
        ("one", 3, True),
        ("two", 4.5, False),
    ]
    assert sum(overview["densities"]["counts"]) == 32
    assert sum(overview["nearest"]["counts"]) == 33


def test_special_tokens_are_named_and_marked(parts: PageParts) -> None:
    tokens = parts.data("tokens")

    assert "<|im_start|>" in parts.text
    assert {tokens["texts"][number] for number in tokens["special"]} <= {
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    }


def test_characters_cut_into_tokens_are_whole_in_contexts(parts: PageParts) -> None:
    texts = parts.data("tokens")["texts"]
    used = {texts[token] for details in parts.details for context in details["top"] for token in context[0]}

    assert {"a", "", "<", ">", "↵"} <= used


def test_a_folder_alone_gives_what_it_holds(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = Path(shutil.copytree(run / "saes" / "one", tmp_path / "moved"))
    notes = load_sae(alone).notes
    assert notes is not None

    (page,) = make_reports(Request(path=alone, use_host=False))

    assert page == Path("moved.html")
    parts = PageParts.of(page.read_text(encoding="utf-8"))
    texts = parts.data("tokens")["texts"]
    assert "Made from the SAE's folder alone" in parts.text
    assert parts.data("overview")["curves"] == []
    first, note = parts.details[0], notes[0]
    assert (first["histogram"], first["suppressed"], first["sampled"]) == ([], [], [])
    assert [texts[t] for t, effect in first["promoted"] if effect is None] == list(note.promoted_tokens)
    assert len(first["top"]) == len(note.examples)
    tokens, active, _ = first["top"][0]
    assert "".join(texts[t] for t in tokens) == "".join(note.examples[0].tokens).replace("\n", "↵")
    assert active[1::2] == [value for value in note.examples[0].values if value]


def test_a_host_that_cannot_be_loaded_is_a_remark(run: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(run / "saes" / "one", tmp_path / "moved"))
    config = json.loads((alone / "cfg.json").read_text())
    config["metadata"]["model_name"] = str(tmp_path / "no host")
    (alone / "cfg.json").write_text(json.dumps(config))

    (page,) = make_reports(Request(path=alone, output=tmp_path / "page.html"))

    assert "The host could not be loaded" in page.read_text(encoding="utf-8")


def test_a_run_without_its_cache_says_so(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("cache", "host", "reports"))
    config = (moved / "config.toml").read_text().replace(f"{run}/cache", f"{moved}/cache")
    (moved / "config.toml").write_text(config)

    (page,) = make_reports(Request(path=moved, sae="two", output=tmp_path / "page.html"))

    parts = PageParts.of(page.read_text(encoding="utf-8"))
    assert f"{moved}/cache is not there" in parts.text
    assert parts.details[0]["promoted"][0][1] > 0
    assert parts.details[0]["top"]
    assert not (moved / "cache").exists()


def test_only_the_first_features_are_listed_when_asked(run: Path, tmp_path: Path) -> None:
    (page,) = make_reports(Request(path=run, sae="one", features=5, output=tmp_path / "page.html"))

    parts = PageParts.of(page.read_text(encoding="utf-8"))
    assert len(parts.details) == len(parts.data("columns")["label"]) == 5
    assert "The first 5 of 33 features" in parts.text
    assert sum(parts.data("overview")["densities"]["counts"]) == 32


def test_a_page_stays_below_its_bound(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sae_train.report.report, "MAX_BYTES", 90_000)

    (page,) = make_reports(Request(path=run, sae="one", output=tmp_path / "page.html"))

    assert page.stat().st_size <= 90_000
    parts = PageParts.of(page.read_text(encoding="utf-8"))
    assert "each feature has at most" in parts.text
    assert 0 < len(parts.details[0]["top"]) < 10

    monkeypatch.setattr(sae_train.report.report, "MAX_BYTES", 10_000)
    with pytest.raises(ReportError, match="list fewer with --features"):
        make_reports(Request(path=run, sae="one", output=tmp_path / "page.html"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output": Path("page.html")}, "--output: names one file, but there are several SAEs.*one, two"),
        ({"features": 0}, "--features: must be at least 1, found 0"),
        ({"tokens": -1}, "--tokens: must be at least 1, found -1"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(run: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(ReportError, match=words):
        make_reports(dataclasses.replace(Request(path=run), **change))  # type: ignore[arg-type]
