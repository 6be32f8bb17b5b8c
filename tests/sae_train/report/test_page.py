from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from sae_train.report.feature_details import EncodedDetails, FeatureDetails, PageContext
from sae_train.report.metric_words import words_for
from sae_train.report.page import DETAILS_A_CHUNK, Figure, Page, render, write_whole_file
from sae_train.report.record_rows import Breakdown, MetricRow
from sae_train.report.run_files import ReportError
from sae_train.report.token_table import TokenTable
from sae_train.report.visible_text import visible_text
from tests.sae_train.report.hostile import HOSTILE
from tests.sae_train.report.page_parts import PageParts

FEATURES = DETAILS_A_CHUNK + 5


def page_of(words: tuple[str, ...], features: int = FEATURES) -> Page:
    """A page that says `words` wherever words may come from outside."""
    table = TokenTable()
    one = words[0]
    context = PageContext(words, [1.0] * len(words), 0, percentile=50.0)
    details = FeatureDetails([1, 2], [(1, 0.5)], [(one, 1.0)], [(one, -1.0)], [context], [context])
    return Page(
        title=one,
        facts=words,
        figures=[Figure(title="L0", value="32")],
        remarks=words,
        metrics=[MetricRow(word, words_for(word), word) for word in words],
        metric_notes=words,
        breakdowns=[Breakdown(one, list(words), [(word, list(words)) for word in words])],
        recipe=[(word, word) for word in words],
        overview={"curves": [], "frontier": [{"name": word} for word in words], "densities": None},
        columns={"count": features, "label": list(words)},
        tokens={"texts": table.texts(), "special": []},
        details=EncodedDetails([details] * features, table).objects(),
    )


@pytest.fixture(scope="module")
def parts() -> PageParts:
    """The page of the worst words."""
    return PageParts.of(render(page_of(HOSTILE)))


def test_hostile_words_make_no_element_and_no_script(parts: PageParts) -> None:
    plain = PageParts.of(render(page_of(("plain",) * len(HOSTILE))))

    assert [tag for tag, _ in parts.tags] == [tag for tag, _ in plain.tags]
    assert parts.code == plain.code
    assert len(parts.code) == 1


def test_hostile_words_are_there_to_be_read(parts: PageParts) -> None:
    for words in HOSTILE:
        assert visible_text(words) in parts.text
    assert parts.data("columns")["label"] == [visible_text(words) for words in HOSTILE]
    assert len(parts.details) == FEATURES


def test_no_control_or_override_reaches_the_page() -> None:
    html = render(page_of(HOSTILE))

    html.encode()  # no half of a character either
    assert not {character for character in html if character < " " and character != "\n"}
    assert not set("\u202e\u2066\u2028\u2029") & set(html)


def test_nothing_is_fetched(parts: PageParts) -> None:
    for tag, attributes in parts.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "audio", "video")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", parts.style)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import|eval|Function)\s*\(", parts.code[0])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write", parts.code[0])


def test_the_policy_lets_only_our_own_script_and_style_work(parts: PageParts) -> None:
    (policy,) = (a["content"] for _, a in parts.tags if a.get("http-equiv") == "Content-Security-Policy")
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (parts.style, parts.code[0])
    ]

    assert policy == (
        f"default-src 'none'; style-src {hashes[0]}; script-src {hashes[1]}; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not [attributes for _, attributes in parts.tags if "style" in attributes]


def test_details_come_in_chunks_of_the_size_the_script_is_told(parts: PageParts) -> None:
    chunks = [text for attributes, text in parts.scripts if attributes.get("class") == "details"]

    assert len(chunks) == 2
    assert parts.data("columns")["chunk"] == DETAILS_A_CHUNK


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"

    write_whole_file(page, "first")
    write_whole_file(page, "second")

    assert page.read_text() == "second"
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    (tmp_path / "page.html" / "kept").touch()

    with pytest.raises(ReportError, match=r"page\.html: cannot be written"):
        write_whole_file(tmp_path / "page.html", "text")

    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
