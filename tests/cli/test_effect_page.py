"""The page of effects: its shades, its numbers, and that no text of tokens becomes anything but text."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from steerd.cli.effect_page import render_effects, visible
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.steering.intervention import FeatureRef
from steerd.studies.applied_steering import AppliedSteering
from steerd.studies.effect_table import EffectTable, FeatureEffect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;\"'"
TEXTS = ("The", " sky", "\n", HOSTILE, "\u202eright", " is", "\t\0")


class Page(HTMLParser):
    """Tags with their attributes, and the shown text of each token's span."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.spans: list[tuple[dict[str, str | None], str]] = []
        self._span: dict[str, str | None] | None = None
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "span" and "title" in dict(attrs):
            self._span = dict(attrs)
            self.spans.append((self._span, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._span = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._span is not None:
            self.spans[-1] = self._span, self.spans[-1][1] + data


def effect(activations: tuple[float, ...], changes: tuple[float, ...], label: str = "sky") -> FeatureEffect:
    told = FeatureLabel(label, (LabelScore("detection", 0.55, 20, "judge"),))
    return FeatureEffect(
        feature=FeatureRef("starter-14", 7), label=told, activations=activations, changes=changes
    )


def page_of(*effects: FeatureEffect, complete: bool = True, warnings: tuple[str, ...] = ()) -> Page:
    table = EffectTable(
        token_ids=tuple(range(len(TEXTS))),
        token_texts=TEXTS,
        logprobs=(0.0, *(-1.5 * n for n in range(1, len(TEXTS)))),
        ordinary=(False, *[True] * (len(TEXTS) - 1)),
        effects=effects,
        steering=AppliedSteering(warnings=warnings),
        complete=complete,
    )
    return Page(render_effects(table, title=f"Effects {HOSTILE}"))


FIRST = effect((40, 2, 0, 0, 0, 1, 0), (0, 0, 0, -4.0, 1.0, 0, 0.004))


def test_every_token_has_both_shades_and_its_numbers() -> None:
    page = page_of(FIRST)

    fires, changes = page.spans[: len(TEXTS)], page.spans[len(TEXTS) :]
    assert [text for _, text in fires] == [text for _, text in changes] == list(map(visible, TEXTS))
    assert [each["style"] for each, _ in fires] == [
        f"--depth:{depth}" for depth in ("1.00", "1.00", "0", "0", "0", "0.50", "0")
    ]
    assert [(each["class"], each["style"]) for each, _ in changes[3:5]] == [
        ("lost", "--depth:1.00"),
        ("gained", "--depth:0.25"),
    ]
    assert changes[3][0]["title"] == (
        "token 3: activation 0, log-probability -4.500, change when ablated -4.000"
    )
    assert "-2.996" in page.text, "of the whole text"
    assert "starter-14:7" in page.text
    assert "sky [0.55 fails]" in page.text


def test_a_feature_that_is_nowhere_active_is_a_line() -> None:
    page = page_of(effect((0,) * 7, (0,) * 7))

    assert page.spans == []
    assert "nowhere active" in page.text


def test_the_text_of_tokens_and_labels_is_text() -> None:
    page = page_of(effect((0, 1, *(0,) * 5), (0,) * 7, label=HOSTILE), warnings=(HOSTILE,))

    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert page.text.count(HOSTILE) >= 4
    assert "⟨U+202E⟩right" in page.text
    assert "⇥\t⟨U+0000⟩" in page.text


def test_nothing_is_fetched_and_what_is_missing_is_said() -> None:
    whole, part = page_of(FIRST), page_of(FIRST, complete=False)

    (policy,) = [
        attributes for tag, attributes in whole.tags if "content" in attributes and "http-equiv" in attributes
    ]
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert not any({"src", "href"} & attributes.keys() for _, attributes in whole.tags)
    assert "ended early" not in whole.text
    assert "ended early" in part.text


def test_tokens_that_change_most_are_listed_with_what_comes_before() -> None:
    page = page_of(FIRST)

    listed = re.sub(r"\s+", " ", page.text[page.text.index("Tokens that change most") :])
    assert listed.index("-4.000") < listed.index("+1.000") < listed.index("+0.004")
    assert "The sky↵ " in listed


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on PATH")
def test_a_browser_shades_it(tmp_path: Path) -> None:
    """Where it is deepest, the shade differs from where there is none."""
    assert BROWSER is not None
    table = EffectTable(
        token_ids=(1, 2),
        token_texts=("one", "two"),
        logprobs=(0.0, -1.0),
        ordinary=(False, True),
        effects=(effect((3.0, 0.0), (0.0, -2.0)),),
        steering=AppliedSteering(),
        complete=True,
    )
    probe = (
        "<script>document.title = [...document.querySelectorAll('.text span')]"
        ".map(span => getComputedStyle(span).backgroundColor).join('|')</script>"
    )
    page = tmp_path / "page.html"
    text = render_effects(table, title="Effects").replace("default-src 'none'; ", "")
    page.write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"file://{page}",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    title = re.search("<title>(.*?)</title>", found.stdout)

    assert title is not None
    fires, idle, unchanged, lost = title[1].split("|")
    assert fires == "rgba(240, 140, 20, 0.85)"
    assert idle == "rgba(240, 140, 20, 0)"
    assert unchanged.endswith(", 0)")
    assert lost == "rgba(45, 120, 215, 0.75)"
