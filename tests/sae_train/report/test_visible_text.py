from __future__ import annotations

import unicodedata

import pytest

from sae_train.report.visible_text import visible_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain <b> & text", "plain <b> & text"),
        ("a\nb\r\tc\x00\x1b\x7f", "a↵b␍⇥c␀␛␡"),
        ("abc\u202ecba", "abc⟨U+202E⟩cba"),
        ("\u2066x\u2069\u200e\ufeff\u200b", "⟨U+2066⟩x⟨U+2069⟩⟨U+200E⟩⟨U+FEFF⟩⟨U+200B⟩"),
        ("line\u2028end\u0085", "line⟨U+2028⟩end⟨U+0085⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("مرحبا שלום 你好 👨‍👩‍👧 می‌خواهم \ufffd", "مرحبا שלום 你好 👨‍👩‍👧 می‌خواهم \ufffd"),
    ],
)
def test_what_shows_nothing_or_reorders_has_a_sign(text: str, shown: str) -> None:
    assert visible_text(text) == shown


def test_no_control_is_left_whatever_the_text() -> None:
    everything = "".join(map(chr, range(0x3000)))

    shown = visible_text(everything)

    assert {unicodedata.category(character) for character in shown}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert not {chr(code) for code in range(0x202A, 0x202F)} & set(shown)
