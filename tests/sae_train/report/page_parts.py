"""A page taken apart with the standard library's parser, as a browser would see it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any


@dataclass
class PageParts(HTMLParser):
    """Tags with their attributes, the texts of scripts and styles, and all other text."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[tuple[dict[str, str | None], str]] = field(default_factory=list)
    style: str = ""
    title: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._inside: str | None = None

    @classmethod
    def of(cls, html: str) -> PageParts:
        parts = cls()
        parts.feed(html)
        parts.close()
        return parts

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style", "title"):
            self._inside = tag
            if tag == "script":
                self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._inside == "style":
            self.style += data
        elif self._inside == "title":
            self.title += data
        else:
            self.text += data

    @property
    def code(self) -> list[str]:
        """The scripts that run."""
        return [text for attributes, text in self.scripts if "type" not in attributes]

    def data(self, name: str) -> Any:  # Any: JSON values
        """The embedded JSON of that name."""
        (text,) = (text for attributes, text in self.scripts if attributes.get("id") == f"data-{name}")
        return json.loads(text)

    @property
    def details(self) -> list[dict[str, Any]]:  # Any: JSON values
        """Every feature's own data, in order."""
        chunks = (text for attributes, text in self.scripts if attributes.get("class") == "details")
        return [feature for chunk in chunks for feature in json.loads(chunk)]
