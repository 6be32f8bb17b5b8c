"""The page of an attribution: what it shows, and what a browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from steerd.cli.attribution_page import render_attribution
from steerd.cli.graph_layout import STEP, lay_out
from tests.cli.attributions import HOSTILE, attribution, feature

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)


class Tags(HTMLParser):
    """All start tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._inside):
            self.text += data

    def of_class(self, name):
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


def test_the_page_shows_graph_check_and_features():
    page = Tags(render_attribution(attribution(), title="Why calm?"))

    for words in (
        "Why calm?",
        '" calm" - " rough"',
        "2.500",
        "probability 0.125",
        "Rank correlation 0.900",
        "late:3",
        "[0.81]",
        "+1.5000",
        "+1.2500",
        "random inactive",
    ):
        assert words in page.text
    assert len(page.of_class("node")) == 5 + 1
    assert len(page.of_class("edge")) == 5
    assert len(page.of_class("dot")) == 5
    assert len(page.of_class("error")) == len(page.of_class("embedding")) == 1


def test_nothing_is_fetched_and_texts_stay_text():
    html = render_attribution(attribution(), title=HOSTILE)

    page = Tags(html)
    assert not [tag for tag, _ in page.tags if tag in ("b", "link", "img", "iframe")]
    assert not [attributes for _, attributes in page.tags if {"src", "href"} & attributes.keys()]
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 2
    assert html.count("</script>") == 2
    assert "<b>&" in page.text


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else():
    html = render_attribution(attribution(), title="x")

    (policy,) = [
        a["content"] for tag, a in Tags(html).tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    (style,), scripts = (
        re.findall(r"<style>(.*?)</style>", html, re.S),
        re.findall(r"<script>(.*?)</script>", html, re.S),
    )
    digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (style, *scripts)]
    assert policy == f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"


def test_what_is_missing_is_not_shown():
    page = Tags(render_attribution(attribution(nodes=(), edges=(), check=None, complete=False), title="x"))

    assert "ended early" in page.text
    assert "Graph" not in page.text
    assert "Predicted against" not in page.text


def test_nodes_do_not_lie_on_each_other():
    crowd = tuple(feature("early", index, 1, 2) for index in range(15))
    found = attribution(nodes=crowd + attribution().nodes[:1], edges=())

    layout = lay_out(found, ["The", "sea", "is", "very"])

    spots = sorted(layout.places.values())
    assert len(spots) == 16
    for one, other in pairwise(spots):
        assert abs(one[0] - other[0]) + abs(one[1] - other[1]) >= STEP * 0.45
    assert [band.name for band in layout.layers] == [
        "embeddings",
        "blocks.1.hook_resid_post",
        "blocks.2.hook_resid_post",
        "answer",
    ]
    heights = [band.start for band in layout.layers]
    assert heights == sorted(heights, reverse=True)
    assert all(0 <= x <= layout.width and 0 <= y <= layout.height for x, y in spots)


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on PATH")
def test_a_browser_runs_the_script_and_finds_the_texts(tmp_path: Path):
    html = render_attribution(attribution(), title="Why calm?")
    # The policy does not let the test's own script run, which clicks on the strongest feature.
    click = 'document.querySelector(\'[data-node="0"]\').dispatchEvent(new Event("click"))'
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"<script>{click}</script></body>"), encoding="utf-8")
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=2000",
        "--dump-dom",
        f"file://{page}",
    ]

    found = Tags(subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout)

    assert "what moves it" in found.text
    assert "early:5" in found.text.split("what moves it")[1].split("Predicted")[0]
    assert len(found.of_class("shown")) == 3  # two edges into it and one out
    assert [attributes["data-node"] for attributes in found.of_class("chosen")] == ["0"]
