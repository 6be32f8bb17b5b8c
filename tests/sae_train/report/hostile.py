"""Strings that a corpus may hold and a page must not act on."""

from __future__ import annotations

HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "<!--<script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "<base href=//elsewhere>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\u2066",
    "a\x00b\x1b[31m\r\n\u2028\u2029",
    "'\"`&amp;&#60;b&#62;",
    "\ud83d",
    "javascript:alert(1)",
)
