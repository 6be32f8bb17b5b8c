"""Exemplars: what leads from a count to the one request behind it."""

from __future__ import annotations

_MAX_CHARACTERS = 128  # OpenMetrics' bound, of names and values together
_NAME = "request_id"


def exemplar(request_id: str) -> dict[str, str] | None:
    """The exemplar that names a request; None for none and for one longer than is allowed."""
    fits = 0 < len(request_id) <= _MAX_CHARACTERS - len(_NAME)
    return {_NAME: request_id} if fits else None
