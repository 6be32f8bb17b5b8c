"""Text coloured by a feature's activation."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text

from steerd.cli.token_painter import TokenPainter, activations, painted, shade
from steerd.client_messages import Delta, Reading, Token
from steerd.steering.intervention import FeatureRef

FEATURE = FeatureRef("s", 7)


def delta(position: int, text: str, value: float | None = None) -> Delta:
    """A token, with the reading of the one before it."""
    readings = () if value is None else (Reading(position - 1, "s", (7,), (value,)),)
    return Delta(text, (Token(0, position, 0.0, text),), readings)


def coloured(texts: list[Text]) -> list[tuple[str, bool]]:
    return [(text.plain, text.style != Style.null()) for text in texts]


def test_a_token_waits_for_its_reading() -> None:
    painter = TokenPainter(FEATURE)

    assert list(painter.paint(delta(5, "one"))) == []
    assert coloured(list(painter.paint(delta(6, "two", 1.0)))) == [("one", True)]
    assert coloured(list(painter.paint(delta(7, "three", 0.0)))) == [("two", False)]
    assert coloured(list(painter.finish())) == [("three", False)]
    assert list(painter.finish()) == []


def test_text_without_a_token_comes_last() -> None:
    painter = TokenPainter(None)

    list(painter.paint(delta(5, "one")))

    assert [text.plain for text in painter.paint(Delta("held back", (), ()))] == ["one", "held back"]


def test_a_deeper_colour_is_a_larger_activation() -> None:
    greens = [shade(value, 4.0).bgcolor.triplet.green for value in (1.0, 2.0, 4.0)]

    assert greens == sorted(greens, reverse=True)
    assert len(set(greens)) == 3
    assert shade(0.0, 4.0) == Style.null()
    assert shade(0.0, 0.0) == Style.null()


def test_activations_are_found_by_sae_and_feature() -> None:
    readings = [
        Reading(1, "s", (3, 7), (0.5, 1.5)),
        Reading(1, "other", (7,), (9.0,)),
        Reading(2, "s", (3,), (1.0,)),
    ]

    assert activations(readings, FEATURE) == {1: 1.5}


def test_a_context_is_painted_whole() -> None:
    text = painted(["a", "[b]", "c"], [0.0, 2.0, 1.0])

    assert text.plain == "a[b]c"
    assert [text.plain[span.start : span.end] for span in text.spans] == ["[b]", "c"]
