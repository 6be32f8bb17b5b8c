"""Text from corpora made fit to be looked at: what is invisible or turns writing round gets a sign."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_SIGNS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x7f": "␡"}
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, halves of characters, separators
# Marks and overrides of writing direction, and characters without width. The joiners U+200C and U+200D stay:
# scripts and emoji are written with them.
_INVISIBLE = frozenset(
    chr(code)
    for codes in (
        (0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF),
        range(0x202A, 0x202F),
        range(0x2060, 0x2070),
        range(0xFFF9, 0xFFFC),
        range(0xE0000, 0xE0080),
    )
    for code in codes
)


def visible_text(text: str) -> str:
    """Return the text with a sign for every character that shows nothing of its own or reorders others."""
    return "".join(map(_visible, text))


@lru_cache(maxsize=4096)
def _visible(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character < " ":
        return chr(0x2400 + ord(character))
    if character in _INVISIBLE or unicodedata.category(character) in _INVISIBLE_CATEGORIES:
        return f"⟨U+{ord(character):04X}⟩"
    return character
