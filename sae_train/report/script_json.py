"""JSON that can stand inside a script element of an HTML page, whatever its strings hold."""

from __future__ import annotations

import json
from typing import Any

# An HTML parser ends a script at "</script" and changes its rules at "<!--"; no "<", no such thing. The two
# separators end a line in older JavaScript.
_ESCAPES = str.maketrans(
    {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
    | {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}  # halves of characters have no UTF-8
)


def script_json(value: Any) -> str:  # Any: JSON values
    """Return compact JSON without `<`, `>` and `&`; numbers must be finite."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def rounded(value: float, digits: int = 6) -> float:
    """Return the value with so many significant digits, as an integer where it is one."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
