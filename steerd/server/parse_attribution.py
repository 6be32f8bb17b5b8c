"""An AttributeRequest -> AttributionWish."""

from __future__ import annotations

from itertools import combinations

from google.protobuf.message import Message

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_prompt import PromptParser
from steerd.server.parse_study import StudyParser
from steerd.studies.attribution.metric import AnswerLogprob, Metric, TokenLogit
from steerd.studies.attribution.wish import AttributionWish, Method
from steerd.study_wire.attribution import METHODS

_GROUPS, _STEPS, _NODES, _CONTROLS = 8, 2, 50, 20
_NODE_SHARE, _EDGE_SHARE = 0.8, 0.98
_MOST_PATHS = 64  # groups, and steps of each

Ids = tuple[int, ...]


def parse_attribution(message: pb.AttributeRequest, parser: StudyParser) -> AttributionWish:
    """What is to be explained. Raises what is wrong with the request."""
    limits = parser.config.limits
    parser.common(message)
    prompt_ids = _prompt(message, parser)
    target = _answer(message, "target", parser)
    against = _answer(message, "against", parser) if message.HasField("against") else None
    parser.violations.must(against is None or target != against, "against", "another answer", against)
    for field, answer in (("target", target), ("against", against)):
        rows = len(prompt_ids or ()) + len(answer or ())
        limit = min(limits.max_gradient_tokens, parser.host.max_context)
        parser.violations.must_be_at_most(field, rows, limit, "tokens with the text")
    most = limits.max_ranked_features
    wish = AttributionWish(
        prompt_ids=prompt_ids or (),
        metric=_metric(target or (0,), against),
        saes=_saes(message, parser),
        method=_method(message, parser),
        groups=_count(message, "groups", _GROUPS, (1, _MOST_PATHS), parser),
        steps=_count(message, "steps", _STEPS, (1, _MOST_PATHS), parser),
        max_nodes=_count(message, "max_nodes", _NODES, (1, most), parser),
        check=not message.skip_check,
        controls=_count(message, "controls", _CONTROLS, (0, most), parser),
        graph=not message.skip_graph,
        node_threshold=_share(message, "node_threshold", _NODE_SHARE, parser),
        edge_threshold=_share(message, "edge_threshold", _EDGE_SHARE, parser),
        include_special_tokens=message.include_special_tokens,
        seed=message.seed,
    )
    parser.violations.raise_if_any()
    return wish


def _prompt(message: pb.AttributeRequest, parser: StudyParser) -> Ids | None:
    """The ids of the text, in which some token counts; None when a violation was recorded."""
    ids = parser.text("text", message.text)
    uncounted = frozenset() if message.include_special_tokens else parser.host.special_token_ids
    first = 0 if message.include_special_tokens else 1
    if ids is not None and not any(token_id not in uncounted for token_id in ids[first:]):
        parser.violations.add("text", "has no token that counts: none but specials and the first")
    return ids


def _answer(message: pb.AttributeRequest, field: str, parser: StudyParser) -> Ids | None:
    """The ids of an answer; None when a violation was recorded."""
    answer = getattr(message, field)
    limit = parser.config.limits.max_prompt_characters
    if not parser.violations.must_be_at_most(f"{field}.text", len(answer.text), limit, "characters"):
        return None
    return PromptParser(parser.host, parser.config.limits, parser.violations).continuation_ids(answer, field)


def _metric(target: Ids, against: Ids | None) -> Metric:
    """Of logits where every answer is one token."""
    if len(target) == 1 and (against is None or len(against) == 1):
        return TokenLogit(target[0], against[0] if against else None)
    return AnswerLogprob(target, against)


def _saes(message: pb.AttributeRequest, parser: StudyParser) -> tuple[str, ...]:
    """Served SAEs, no two of which read the same rows where they are to be connected."""
    names = parser.sae_names("saes", message.saes)
    parser.violations.must(bool(names), "saes", "at least one, and none is served", 0)
    read = {sae.name: sae.hook_point.of_rows for sae in parser.saes if sae.name in names}
    for one, other in combinations(read, 2):
        if read[one] == read[other] and not message.skip_graph:
            problem = f"{one!r} and {other!r} read the same rows; name one of them, or set skip_graph"
            parser.violations.add("saes", problem)
    return names


def _method(message: pb.AttributeRequest, parser: StudyParser) -> Method:
    names: dict[int, Method] = {value: method for method, value in METHODS.items()}
    names[pb.ATTRIBUTION_METHOD_UNSPECIFIED] = Method.INTEGRATED_GRADIENTS
    parser.violations.must(message.method in names, "method", "an AttributionMethod", message.method)
    return names.get(message.method, Method.INTEGRATED_GRADIENTS)


def _count(message: Message, field: str, default: int, bounds: tuple[int, int], parser: StudyParser) -> int:
    value: int = getattr(message, field) if message.HasField(field) else default
    parser.violations.must_be_between(field, value, *bounds)
    return value


def _share(message: Message, field: str, default: float, parser: StudyParser) -> float:
    value: float = getattr(message, field) if message.HasField(field) else default
    parser.violations.must(0 < value <= 1, field, "above 0 and at most 1", value)
    return value
