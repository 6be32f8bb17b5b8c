"""A page that shows a server's last minutes, at / of the metrics port, and the JSON that it asks for.

Read-only: one HTML file without outside requests, under a Content-Security-Policy that names its own script
and style by hash and lets it talk to this server alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry

from steerd.monitoring.last_request import LastRequest
from steerd.monitoring.recent_samples import (
    KEPT_SECONDS,
    SAMPLE_SECONDS,
    RecentSample,
    RecentSamples,
    Watched,
)
from steerd.monitoring.top_features import TOP_SECONDS, TopFeature, TopFeatures

_FILE = Path(__file__).with_name("live_page.html")
_JSON_PATH = "/live.json"
_TOKENS_PATH = "/tokens.json"


class LivePage:
    """Answers for its paths, from any thread."""

    def __init__(
        self,
        registry: CollectorRegistry,
        top: TopFeatures,
        last_request: LastRequest | None = None,
        *,
        server: Mapping[str, str | int],
    ) -> None:
        """`server` is what the page says of it: model, version, max_running, max_waiting. Without
        `last_request` no text of a request is shown."""
        self.top = top
        self._last_request = last_request
        self._server = dict(server) | {"started": time.time()}
        self.samples = RecentSamples(registry)
        self._page = _FILE.read_bytes()
        self._policy = content_security_policy(self._page.decode())

    def start(self) -> None:
        """Begin to take samples."""
        self.samples.start()

    def stop(self) -> None:
        """Take no more samples."""
        self.samples.stop()

    def answer(self, path: str, query: str) -> tuple[list[tuple[str, str]], bytes] | None:
        """Headers and body of a GET; None when the path is not the page's."""
        if path == "/":
            page = ("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", self._policy)
            return [*page, *_HEADERS], self._page
        if path == _JSON_PATH:
            return _json(self._history(_number(query, "after") or 0))
        if path == _TOKENS_PATH and self._last_request is not None:
            return _json(self._last_request.told(_number(query, "feature")))
        return None

    def _history(self, after: int) -> dict[str, Any]:
        """The samples after a number, their watched features as lists in the order of `features`."""
        samples = self.samples.after(after)
        watched = list(samples[-1].active) if samples else None
        return {
            "server": self._server,
            "sample_seconds": SAMPLE_SECONDS,
            "kept_seconds": KEPT_SECONDS,
            "features": watched,
            "samples": [_plain(sample, watched or ()) for sample in samples],
            "last_request": 0 if self._last_request is None else self._last_request.number,
            "top_seconds": TOP_SECONDS,
            "top": [
                {"sae": sae, "tokens": tokens, "features": [_top(feature) for feature in features]}
                for sae, (tokens, features) in self.top.top().items()
            ],
        }


_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


def content_security_policy(page: str) -> str:
    """A policy under which nothing runs or loads but the page's own script and style."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(content: Any) -> tuple[list[tuple[str, str]], bytes]:
    text = json.dumps(content, separators=(",", ":"))
    return [("Content-Type", "application/json"), *_HEADERS], text.encode()


def _number(query: str, name: str) -> int | None:
    """A number of the query; None when it is not there or no number."""
    (text,) = parse_qs(query).get(name, [""])[:1]
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def _top(feature: TopFeature) -> dict[str, Any]:
    label = feature.label
    score = None if label.score is None else {"value": label.score.value, "fails": label.score.fails}
    return asdict(feature) | {"label": label.text, "score": score}


def _plain(sample: RecentSample, features: Iterable[Watched]) -> dict[str, Any]:
    return {
        "number": sample.number,
        "at": round(sample.at, 2),
        "running": sample.running,
        "waiting": sample.waiting,
        "prompt_tokens": sample.prompt_tokens,
        "generated_tokens": sample.generated_tokens,
        "outcomes": sample.outcomes,
        "monitored": sample.monitored,
        "active": [sample.active.get(feature) for feature in features],
        "over": [sample.over.get(feature) for feature in features],
    }
