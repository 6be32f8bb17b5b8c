"""The rows of a request that an intervention is for, and how strong it is over them, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """Which rows of a request are edited: those of the prompt, those of generated tokens, or both."""

    ALL = "all"
    PROMPT = "prompt"
    GENERATED = "generated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The rows of a request that an intervention touches; special tokens (chat markers) only when asked."""

    phase: Phase = Phase.ALL
    include_special_tokens: bool = False
