"""Attribute: the call to its message, and the server's answers to theirs and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steerd.engine.study import Progress
from steerd.pb.v1 import feature_pb2, generation_service_pb2
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.studies.attribution.metric import AnswerLogprob, Metric, TokenLogit, answers_of
from steerd.studies.attribution.result import (
    AttributedNode,
    Attribution,
    AttributionCheck,
    AttributionEdge,
    NodeKind,
    NodeRole,
    SaeTotal,
)
from steerd.studies.attribution.wish import Method
from steerd.study_wire.label import label_message, label_of
from steerd.study_wire.study_text import StudyText, progress_of, text_messages

METHODS: dict[Method, pb.AttributionMethod.ValueType] = {
    Method.DIRECT: pb.ATTRIBUTION_METHOD_DIRECT,
    Method.GRADIENT: pb.ATTRIBUTION_METHOD_GRADIENT,
    Method.INTEGRATED_GRADIENTS: pb.ATTRIBUTION_METHOD_INTEGRATED_GRADIENTS,
}
_KINDS: dict[NodeKind, pb.AttributionNodeKind.ValueType] = {
    NodeKind.FEATURE: pb.ATTRIBUTION_NODE_KIND_FEATURE,
    NodeKind.ERROR: pb.ATTRIBUTION_NODE_KIND_ERROR,
    NodeKind.EMBEDDING: pb.ATTRIBUTION_NODE_KIND_EMBEDDING,
}
_ROLES: dict[NodeRole, pb.AttributionNodeRole.ValueType] = {
    NodeRole.TOP: pb.ATTRIBUTION_NODE_ROLE_TOP,
    NodeRole.RANDOM_ACTIVE: pb.ATTRIBUTION_NODE_ROLE_RANDOM_ACTIVE,
    NodeRole.RANDOM_INACTIVE: pb.ATTRIBUTION_NODE_ROLE_RANDOM_INACTIVE,
}
_KIND_OF = {value: kind for kind, value in _KINDS.items()}
_ROLE_OF = {value: role for role, value in _ROLES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributeCall:
    """One Attribute call. None stands for the server's default, no SAE for all of them."""

    text: StudyText
    target: str
    against: str | None = None
    saes: tuple[str, ...] = ()
    method: Method = Method.INTEGRATED_GRADIENTS
    groups: int | None = None
    steps: int | None = None
    max_nodes: int | None = None
    check: bool = True
    controls: int | None = None
    graph: bool = True
    node_threshold: float | None = None
    edge_threshold: float | None = None
    include_special_tokens: bool = False
    seed: int = 0
    request_id: str = ""
    max_seconds: float = 0.0


def attribute_request(call: AttributeCall) -> pb.AttributeRequest:
    """The message of a call."""
    message = pb.AttributeRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        text=text_messages([call.text])[0],
        target=generation_service_pb2.Continuation(text=call.target),
        saes=call.saes,
        method=METHODS[call.method],
        groups=call.groups,
        steps=call.steps,
        max_nodes=call.max_nodes,
        skip_check=not call.check,
        controls=call.controls,
        skip_graph=not call.graph,
        node_threshold=call.node_threshold,
        edge_threshold=call.edge_threshold,
        include_special_tokens=call.include_special_tokens,
        seed=call.seed,
    )
    if call.against is not None:
        message.against.text = call.against
    return message


def attribution_message(found: Attribution) -> pb.AttributeResult:
    """The message of a result."""
    is_logit = isinstance(found.metric, TokenLogit)
    return pb.AttributeResult(
        complete=found.complete,
        model=found.model,
        num_layers=found.num_layers,
        token_ids=found.token_ids,
        token_texts=found.token_texts,
        answers=[
            pb.AttributedAnswer(token_ids=ids, text=text)
            for ids, text in zip(answers_of(found.metric), found.answer_texts, strict=True)
        ],
        metric=pb.ATTRIBUTION_METRIC_LOGIT if is_logit else pb.ATTRIBUTION_METRIC_LOGPROB,
        value=found.value,
        probability=found.probability,
        nodes=map(_node_message, found.nodes),
        edges=map(_edge_message, found.edges),
        check=None if found.check is None else _check_message(found.check),
        totals=map(_total_message, found.totals),
    )


def attribute_event(message: pb.AttributeResponse) -> Progress | Attribution:
    """One message of the stream."""
    if message.HasField("progress"):
        return progress_of(message.progress)
    result = message.result
    return Attribution(
        model=result.model,
        num_layers=result.num_layers,
        token_ids=tuple(result.token_ids),
        token_texts=tuple(result.token_texts),
        metric=_metric_of(result),
        answer_texts=tuple(answer.text for answer in result.answers),
        value=result.value,
        probability=result.probability,
        nodes=tuple(map(_node_of, result.nodes)),
        edges=tuple(map(_edge_of, result.edges)),
        check=_check_of(result.check) if result.HasField("check") else None,
        totals=tuple(SaeTotal(t.sae, t.num_active, t.features, t.errors) for t in result.totals),
        complete=result.complete,
    )


def _metric_of(result: pb.AttributeResult) -> Metric:
    answers = [tuple(answer.token_ids) for answer in result.answers]
    if result.metric == pb.ATTRIBUTION_METRIC_LOGIT:
        return TokenLogit(*(ids[0] for ids in answers))
    return AnswerLogprob(*answers)


def _node_message(node: AttributedNode) -> pb.AttributionNode:
    has_sae = node.kind is not NodeKind.EMBEDDING
    return pb.AttributionNode(
        kind=_KINDS[node.kind],
        role=_ROLES[node.role],
        feature=feature_pb2.FeatureRef(sae=node.sae, index=max(node.feature, 0)) if has_sae else None,
        hook_point=node.hook_point,
        position=node.position,
        activation=node.activation,
        attribution=node.attribution,
        measured=node.measured,
        influence=node.influence,
        label=label_message(node.label),
    )


def _node_of(message: pb.AttributionNode) -> AttributedNode:
    kind = _KIND_OF[message.kind]
    return AttributedNode(
        kind=kind,
        role=_ROLE_OF[message.role],
        hook_point=message.hook_point,
        position=message.position,
        activation=message.activation,
        attribution=message.attribution,
        sae=message.feature.sae,
        feature=message.feature.index if kind is NodeKind.FEATURE else -1,
        measured=_optional(message, "measured"),
        influence=_optional(message, "influence"),
        label=label_of(message.label) if message.HasField("label") else None,
    )


def _edge_message(edge: AttributionEdge) -> pb.AttributionEdge:
    target = None if edge.target < 0 else edge.target
    return pb.AttributionEdge(source=edge.source, target=target, weight=edge.weight)


def _edge_of(message: pb.AttributionEdge) -> AttributionEdge:
    target = message.target if message.HasField("target") else -1
    return AttributionEdge(message.source, target, message.weight)


def _check_message(check: AttributionCheck) -> pb.AttributionCheck:
    return pb.AttributionCheck(
        checked=check.checked,
        rank_correlation=check.rank_correlation,
        rank_correlation_top=check.rank_correlation_top,
        mean_effect_top=check.mean_effect_top,
        mean_effect_random_active=check.mean_effect_random_active,
        mean_effect_random_inactive=check.mean_effect_random_inactive,
    )


def _check_of(message: pb.AttributionCheck) -> AttributionCheck:
    return AttributionCheck(
        checked=message.checked,
        rank_correlation=_optional(message, "rank_correlation"),
        rank_correlation_top=_optional(message, "rank_correlation_top"),
        mean_effect_top=message.mean_effect_top,
        mean_effect_random_active=message.mean_effect_random_active,
        mean_effect_random_inactive=message.mean_effect_random_inactive,
    )


def _total_message(total: SaeTotal) -> pb.AttributionTotal:
    return pb.AttributionTotal(
        sae=total.sae, num_active=total.num_active, features=total.features, errors=total.errors
    )


def _optional(message: Any, field: str) -> float | None:  # Any: a message with such a field
    value: float = getattr(message, field)
    return value if message.HasField(field) else None
