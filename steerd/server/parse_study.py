"""What the requests of all studies share: id, time and texts, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from steerd.config import Config
from steerd.errors import NotFound
from steerd.host.host_model import HostModel
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse import NamedMessage, check_request_id
from steerd.server.parse_prompt import PromptParser
from steerd.server.parse_target import TargetParser
from steerd.server.violations import Violations
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes


class StudyMessage(NamedMessage, Protocol):
    """What every request for a study has."""

    @property
    def max_seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class StudyParser:
    """Parses parts of one study's request, recording every broken rule and unknown name."""

    host: HostModel
    saes: LoadedSaes
    config: Config
    violations: Violations

    def common(self, message: StudyMessage) -> None:
        """Check id and time."""
        check_request_id(message.request_id, self.violations)
        limit = self.config.server.max_study_seconds
        self.violations.must_be_between("max_seconds", message.max_seconds, 0, limit)

    def texts(self, field: str, messages: Sequence[pb.Text]) -> tuple[tuple[int, ...], ...]:
        """The ids of texts, at least one; empty when a violation was recorded."""
        limits, violations = self.config.limits, self.violations
        if not (
            violations.must_not_be_empty(field, messages)
            and violations.must_be_at_most(field, len(messages), limits.max_study_texts, "texts")
        ):
            return ()
        texts = [self.text(f"{field}[{number}]", message) for number, message in enumerate(messages)]
        found = tuple(text for text in texts if text is not None)
        total = sum(map(len, found))
        fits = violations.must_be_at_most(field, total, limits.max_study_tokens, "tokens together")
        return found if fits and len(found) == len(messages) else ()

    def sae_names(self, field: str, names: Sequence[str]) -> tuple[str, ...]:
        """Names of served SAEs, each once; all that are served when none is named."""
        for position, name in enumerate(names):
            place = f"{field}[{position}]"
            try:
                self.saes.get(name, field=place)
            except NotFound as error:
                self.violations.add_not_found(error)
            self.violations.must(name not in names[:position], place, "named once", name)
        return tuple(names) or tuple(sae.name for sae in self.saes)

    def must_count(self, field: str, texts: Sequence[Sequence[int]], *, include_special_tokens: bool) -> None:
        """Check that some token of each text counts in a study's statistics."""
        uncounted = frozenset() if include_special_tokens else self.host.special_token_ids
        first = 0 if include_special_tokens else 1
        for number, text in enumerate(texts):
            if not any(token_id not in uncounted for token_id in text[first:]):
                problem = "has no token that counts: none but specials and the first"
                self.violations.add(f"{field}[{number}]", problem)

    def features(
        self, field: str, messages: Sequence[feature_pb2.FeatureRef], *, most: int
    ) -> tuple[FeatureRef, ...]:
        """Features of served SAEs, each once, at most so many."""
        if not self.violations.must_be_at_most(field, len(messages), most, "features"):
            return ()
        targets = TargetParser(self.host, self.saes, self.violations)
        seen: dict[FeatureRef, None] = {}
        for position, message in enumerate(messages):
            feature = targets.feature(message, f"{field}[{position}]")
            if feature is not None:
                shown = f"{feature.sae}:{feature.index}"
                self.violations.must(feature not in seen, f"{field}[{position}]", "named once", shown)
                seen[feature] = None
        return tuple(seen)

    def text(self, place: str, message: pb.Text) -> tuple[int, ...] | None:
        """The ids of one text; None when a violation was recorded."""
        limits = self.config.limits
        ids = PromptParser(self.host, limits, self.violations, f"{place}.").prompt_ids(message)
        if ids is None or not self.violations.must_be_at_most(
            place, len(ids), limits.max_text_tokens, "tokens"
        ):
            return None
        return ids
