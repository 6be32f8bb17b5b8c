"""Stop strings never reach the client, in whatever pieces they come."""

from __future__ import annotations

import random

import pytest

from steerd.server.stop_text import StopText


def test_without_stop_strings_text_passes() -> None:
    stop_text = StopText([])

    assert [stop_text.push("ab"), stop_text.push("c"), stop_text.flush()] == ["ab", "c", ""]


def test_the_start_of_a_stop_string_is_held_until_it_is_none() -> None:
    stop_text = StopText(["END"])

    assert [stop_text.push(text) for text in ("a E", "N", "x", "y")] == ["a ", "", "ENx", "y"]


def test_nothing_passes_after_a_stop_string() -> None:
    stop_text = StopText(["END"])

    assert [stop_text.push(text) for text in ("a E", "ND b", "c")] == ["a ", "", ""]
    assert stop_text.flush() == ""


def test_what_was_held_comes_out_at_the_end() -> None:
    stop_text = StopText(["END"])

    assert stop_text.push("a EN") == "a "
    assert stop_text.flush() == "EN"


@pytest.mark.parametrize("seed", range(50))
def test_however_text_is_cut_no_stop_string_passes_and_nothing_before_it_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    rest = text = "".join(rng.choices("ab", k=60))
    stop = ["".join(rng.choices("ab", k=rng.randint(2, 6))) for _ in range(3)]
    before_any = text[: min((text.find(s) for s in stop if s in text), default=len(text))]

    stop_text, sent = StopText(stop), ""
    while rest:
        length = rng.randint(1, 5)
        sent += stop_text.push(rest[:length])
        rest = rest[length:]
    sent += stop_text.flush()

    assert text.startswith(sent)
    assert sent.startswith(before_any)
    assert not any(s in sent for s in stop)
