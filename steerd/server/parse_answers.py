"""A CompareAnswersRequest -> AnswerWish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import generation_service_pb2
from steerd.server.parse_prompt import PromptParser
from steerd.server.parse_steering import SteeringParser
from steerd.server.parse_study import StudyParser
from steerd.steering.steering import Steering
from steerd.studies.answers.wish import AnswerWish, ControlText

_MAX_FEATURES, _ADDITIONS, _DOSE, _MAX_MOVES, _MIN_EFFECT = 24, 8, 0.5, 6, 0.1
_LARGEST_DOSE, _MOST_MOVES, _LARGEST_EFFECT = 10.0, 32, 1000.0


def parse_answers(
    message: pb.CompareAnswersRequest,
    parser: StudyParser,
    steering: SteeringParser,
    plan_hash: Callable[[Steering], str],
) -> AnswerWish:
    """What is to be compared. Raises what is wrong with the request."""
    violations, limits = parser.violations, parser.config.limits
    parser.common(message)
    if not parser.host.has_gradients:
        violations.add("text", "cannot be studied so: this host's 8-bit weights have no gradients")
    prompt_ids = parser.text("text", message.text)
    right, wrong = (
        _answer(field, getattr(message, field), prompt_ids, parser) for field in ("right", "wrong")
    )
    violations.must(not right or right != wrong, "wrong", "another answer than right", list(wrong))
    max_features = message.max_features if message.HasField("max_features") else _MAX_FEATURES
    violations.must_be_between("max_features", max_features, 1, limits.max_ranked_features)
    additions = message.additions if message.HasField("additions") else _ADDITIONS
    violations.must_be_between("additions", additions, 0, limits.max_ranked_features)
    dose = message.dose if message.HasField("dose") else _DOSE
    violations.must(0 < dose <= _LARGEST_DOSE, "dose", f"above 0 and at most {_LARGEST_DOSE:g}", dose)
    max_moves = message.max_moves if message.HasField("max_moves") else _MAX_MOVES
    violations.must_be_between("max_moves", max_moves, 1, _MOST_MOVES)
    min_effect = message.min_effect if message.HasField("min_effect") else _MIN_EFFECT
    violations.must_be_between("min_effect", min_effect, 0, _LARGEST_EFFECT)
    prompts = PromptParser(parser.host, limits, violations, "text.")
    steered = steering.steering(message, message.text, prompts, prompt_ids, violations)
    saes = parser.sae_names("saes", message.saes)
    controls = _controls(message, parser, steered)
    violations.raise_if_any()
    return AnswerWish(
        prompt_ids=prompt_ids or (),
        right=right,
        wrong=wrong,
        saes=saes,
        steering=steered,
        plan_hash=plan_hash(steered),
        max_features=max_features,
        additions=additions,
        dose=dose,
        max_moves=max_moves,
        min_effect=min_effect,
        controls=controls,
    )


def _controls(
    message: pb.CompareAnswersRequest, parser: StudyParser, steering: Steering
) -> tuple[ControlText, ...]:
    """The control texts, steered as the text is, with the roles of their own messages."""
    texts = parser.texts("controls", message.controls) if message.controls else ()
    has_roles = any(edit.scope.roles for edit in steering.interventions)
    found = []
    for number, (control, ids) in enumerate(zip(message.controls, texts, strict=False)):
        prompts = PromptParser(parser.host, parser.config.limits, parser.violations)
        is_spoken = has_roles and control.HasField("chat")
        roles = prompts.roles(control, ids, f"controls[{number}]") if is_spoken else ()
        found.append(ControlText(ids, replace(steering, roles=roles)))
    return tuple(found)


def _answer(
    field: str,
    message: generation_service_pb2.Continuation,
    prompt_ids: tuple[int, ...] | None,
    parser: StudyParser,
) -> tuple[int, ...]:
    """The ids of an answer that fits in with the prompt; empty when a violation was recorded."""
    limits = parser.config.limits
    if not parser.violations.must_be_at_most(
        f"{field}.text", len(message.text), limits.max_prompt_characters, "characters"
    ):
        return ()
    prompts = PromptParser(parser.host, limits, parser.violations)
    ids = prompts.continuation_ids(message, field)
    if ids is None or prompt_ids is None:
        return ()
    most = min(limits.max_text_tokens, parser.host.max_context)
    fits = parser.violations.must_be_at_most(field, len(prompt_ids) + len(ids), most, "tokens with the text")
    return ids if fits else ()
