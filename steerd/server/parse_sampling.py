"""Sampling parameters with every default filled in."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from steerd.config import LimitsConfig
from steerd.engine.request import SamplingParams
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.violations import Violations

MIN_TEMPERATURE = 0.01  # much below, logits / temperature leaves the range of float32
MAX_TEMPERATURE = 100.0


@dataclass(frozen=True, slots=True)
class SamplingParser:
    """Parses one request's sampling parameters, recording every broken rule."""

    vocab_size: int
    max_context: int
    limits: LimitsConfig
    violations: Violations

    def sampling(self, message: pb.SamplingParams, prompt_tokens: int) -> SamplingParams:
        """The parameters in force; meaningless once a violation was recorded."""
        return SamplingParams(
            max_new_tokens=self._max_new_tokens(message, prompt_tokens),
            temperature=self._temperature(message.temperature if message.HasField("temperature") else 0.0),
            top_p=self._top_p(message.top_p if message.HasField("top_p") else 1.0),
            top_k=self._top_k(message.top_k if message.HasField("top_k") else 0),
            seed=message.seed if message.HasField("seed") else secrets.randbits(32),
        )

    def stop(self, message: pb.SamplingParams) -> tuple[str, ...]:
        """The stop strings."""
        stop, limits = tuple(message.stop), self.limits
        self.violations.must_be_at_most("sampling.stop", len(stop), limits.max_stop_strings, "strings")
        for position, text in enumerate(stop):
            field = f"sampling.stop[{position}]"
            self.violations.must_not_be_empty(field, text)
            self.violations.must_be_at_most(field, len(text), limits.max_stop_characters, "characters")
        return stop

    def _max_new_tokens(self, message: pb.SamplingParams, prompt_tokens: int) -> int:
        room = self.max_context - prompt_tokens
        if not message.HasField("max_new_tokens"):
            return min(self.limits.default_max_new_tokens, room)
        wanted = message.max_new_tokens
        field = "sampling.max_new_tokens"
        if self.violations.must_be_between(field, wanted, 1, self.limits.max_new_tokens):
            bound = f"at most {room}, what the prompt's {prompt_tokens} tokens leave of the context"
            self.violations.must(wanted <= room, field, f"{bound} of {self.max_context}", wanted)
        return wanted

    def _temperature(self, value: float) -> float:
        bound = f"0 or between {MIN_TEMPERATURE:g} and {MAX_TEMPERATURE:g}"
        holds = value == 0 or MIN_TEMPERATURE <= value <= MAX_TEMPERATURE
        self.violations.must(holds, "sampling.temperature", bound, value)
        return abs(value)  # -0.0 is greedy too

    def _top_p(self, value: float) -> float:
        self.violations.must(0 < value <= 1, "sampling.top_p", "above 0 and at most 1", value)
        return value

    def _top_k(self, value: int) -> int:
        self.violations.must_be_between("sampling.top_k", value, 0, self.vocab_size)
        return value
