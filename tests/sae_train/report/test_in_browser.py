"""The page in a real browser, where there is one: what its script makes of the data."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from sae_train.report.make_reports import Request, make_reports
from sae_train.report.visible_text import visible_text
from steerd.sae.feature_note import FeatureExample
from steerd.sae.sae_file import load_sae, save_sae
from tests.sae_train.report.hostile import HOSTILE
from tests.sae_train.report.page_parts import PageParts
from tests.sae_train.report.small_run import make_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)
WRITABLE = [words for words in HOSTILE if words.isascii() or words.encode(errors="ignore").decode() == words]

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on PATH")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with a hostile copy of its first SAE beside it."""
    folder = tmp_path_factory.mktemp("browsed")
    make_run(folder)
    bundle = load_sae(folder / "saes" / "one")
    assert bundle.notes is not None
    example = FeatureExample(WRITABLE, [1.0] * len(WRITABLE))
    notes = tuple(
        dataclasses.replace(note, label=WRITABLE[i % len(WRITABLE)], top_tokens=WRITABLE, examples=[example])
        for i, note in enumerate(bundle.notes)
    )
    save_sae(folder / "hostile", dataclasses.replace(bundle, notes=notes))
    return folder


def opened(page: Path, place: str) -> PageParts:
    """The document after the script ran, at a place of the page."""
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={page.parent / 'profile'}",
        "--window-size=1300,900",
        "--virtual-time-budget=3000",
        "--dump-dom",
        f"file://{page}#{place}",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return PageParts.of(found.stdout)


def test_a_features_page_shows_its_data(folder: Path) -> None:
    (page,) = make_reports(Request(path=folder, sae="one"))

    parts = opened(page, "feature/3")

    columns = parts.data("columns")
    assert f"#3{columns['label'][3]}" in parts.text
    for words in ("33 features", "Strongest contexts", "Contexts across the range", "Promotes", "Suppresses"):
        assert words in parts.text
    (label, _, ((_, value, *_),)) = parts.details[3]["labels"][0]
    assert f"{label} tokens {value}" in parts.text
    assert "Score" in parts.text
    links = [attributes.get("href") for tag, attributes in parts.tags if tag == "a"]
    assert {f"#feature/{other}" for other, _ in parts.details[3]["neighbours"]} <= set(links)
    drawn = [attributes for _, attributes in parts.tags if attributes.get("class") == "row"]
    assert 10 < len(drawn) <= 33
    marked = [attributes for _, attributes in parts.tags if attributes.get("class") == "token peak-token"]
    assert len(marked) == len(parts.details[3]["top"]) + len(parts.details[3]["sampled"])
    assert all("--heat" in (attributes["style"] or "") for attributes in marked)
    bars = [attributes for _, attributes in parts.tags if attributes.get("class") == "bar"]
    assert len(bars) >= 32


def test_hostile_labels_and_contexts_are_text(folder: Path) -> None:
    (page,) = make_reports(Request(path=folder / "hostile", output=folder / "hostile.html", use_host=False))

    parts = opened(page, "feature/2")

    assert not [tag for tag, _ in parts.tags if tag in ("img", "base", "b")]
    assert len(parts.code) == 1
    assert parts.title == f"#2 {visible_text(WRITABLE[2])}"
    for words in WRITABLE:
        assert visible_text(words).strip() in parts.text
