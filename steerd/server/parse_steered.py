"""A study's text with all that steers it, and the tokens that are looked at in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from steerd.engine.steered_forward import SteeredText
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import generation_service_pb2, steering_pb2
from steerd.server.edit_conflicts import PlacedEdit
from steerd.server.parse_prompt import PromptParser
from steerd.server.parse_steering import SteeringMessage, SteeringParser
from steerd.server.parse_study import StudyMessage, StudyParser
from steerd.steering.steering import Steering


class SteeredMessage(StudyMessage, SteeringMessage, Protocol):
    """What every request for a study of one steered text has."""

    @property
    def text(self) -> pb.Text: ...

    @property
    def continuation(self) -> generation_service_pb2.Continuation: ...


@dataclass(frozen=True, slots=True)
class SteeredParser:
    """Parses parts of one request about a steered text, recording every broken rule and unknown name."""

    message: SteeredMessage
    study: StudyParser
    steering: SteeringParser

    def text(self) -> SteeredText | None:
        """The text with its steering; None when a violation was recorded."""
        self.study.common(self.message)
        prompt_ids = self.study.text("text", self.message.text)
        continuation = self._continuation()
        steering = self.steered(prompt_ids)
        if prompt_ids is None or continuation is None:
            return None
        text = SteeredText(prompt_ids=prompt_ids, continuation=continuation, steering=steering)
        limit = min(self.study.config.limits.max_text_tokens, self.study.host.max_context)
        fits = self.study.violations.must_be_at_most(
            "continuation", len(text.token_ids), limit, "tokens with the text"
        )
        return text if fits else None

    def steered(self, prompt_ids: tuple[int, ...] | None, besides: Sequence[PlacedEdit] = ()) -> Steering:
        """What steers the text, and `besides` what the study itself does to it."""
        violations, text = self.study.violations, self.message.text
        return self.steering.steering(
            self.message, text, self._prompts, prompt_ids, violations, besides=besides
        )

    def positions(
        self, messages: Sequence[steering_pb2.PositionRange], text: SteeredText | None
    ) -> tuple[int, ...]:
        """Positions in rising order; the last when none is named, none when the text is not known."""
        if text is None:
            return ()
        num_tokens = len(text.token_ids)
        limit = self.study.config.limits.max_scope_items
        if not self.study.violations.must_be_at_most("positions", len(messages), limit, "stretches"):
            return ()
        found: set[int] = set() if messages else {num_tokens - 1}
        for number, message in enumerate(messages):
            found.update(self._stretch(message, f"positions[{number}]", num_tokens))
        return tuple(sorted(found))

    def values(self, count: int, field: str) -> None:
        """Check how many numbers the answer will have."""
        limit = self.study.config.limits.max_study_values
        self.study.violations.must_be_at_most(field, count, limit, "numbers in the answer")

    def _stretch(self, message: steering_pb2.PositionRange, field: str, num_tokens: int) -> range:
        end = message.end if message.HasField("end") else num_tokens
        here = range(_from_start(message.start, num_tokens), _from_start(end, num_tokens))
        fits = 0 <= here.start < here.stop <= num_tokens
        shown = f"{message.start}:{message.end if message.HasField('end') else ''}"
        self.study.violations.must(fits, field, f"a stretch of the {num_tokens} tokens", shown)
        return here if fits else range(0)

    def _continuation(self) -> tuple[int, ...] | None:
        """Its ids, none if there is none; None when a violation was recorded."""
        message = self.message.continuation
        if message.WhichOneof("content") is None:
            return ()
        limit = self.study.config.limits.max_prompt_characters
        if not self.study.violations.must_be_at_most(
            "continuation.text", len(message.text), limit, "characters"
        ):
            return None
        return self._prompts.continuation_ids(message, "continuation")

    @property
    def _prompts(self) -> PromptParser:
        return PromptParser(self.study.host, self.study.config.limits, self.study.violations, "text.")


def _from_start(position: int, num_tokens: int) -> int:
    return position + num_tokens if position < 0 else position
