"""A LogitLensRequest -> LensWish."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_steered import SteeredParser
from steerd.server.parse_token import chosen_token
from steerd.steering.steering import Steering
from steerd.studies.logit_lens import LensWish

_DEFAULT_TOP = 5


def parse_lens(
    message: pb.LogitLensRequest, parser: SteeredParser, plan_hash: Callable[[Steering], str]
) -> LensWish:
    """What is to be looked at. Raises what is wrong with the request."""
    study, violations = parser.study, parser.study.violations
    text = parser.text()
    layers = _layers(message.layers, parser)
    positions = parser.positions(message.positions, text)
    top = message.top_k if message.HasField("top_k") else _DEFAULT_TOP
    limit = study.config.limits.max_top_k
    violations.must_be_between("top_k", top, 0, limit)
    chosen: list[int | None] = []
    if violations.must_be_at_most("tokens", len(message.tokens), limit, "tokens"):
        chosen = [
            chosen_token(token, f"tokens[{number}]", study) for number, token in enumerate(message.tokens)
        ]
    parser.values(len(layers) * len(positions) * (top + len(chosen)), "positions")
    violations.raise_if_any()
    assert text is not None  # otherwise a violation was recorded
    return LensWish(
        text=text,
        plan_hash=plan_hash(text.steering),
        layers=layers,
        positions=positions,
        top=min(top, study.host.vocab_size),
        chosen=tuple(token_id for token_id in chosen if token_id is not None),
    )


def _layers(layers: Sequence[int], parser: SteeredParser) -> tuple[int, ...]:
    """Layers in rising order; all when none is named."""
    violations, num_layers = parser.study.violations, parser.study.host.num_layers
    if not violations.must_be_at_most("layers", len(layers), num_layers, "layers"):
        return ()
    for number, layer in enumerate(layers):
        field = f"layers[{number}]"
        violations.must(layer < num_layers, field, f"at most {num_layers - 1}, the last layer", layer)
        violations.must(layer not in layers[:number], field, "named once", layer)
    return tuple(sorted(layers)) or tuple(range(num_layers))
