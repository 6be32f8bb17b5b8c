"""A TraceRequest -> TraceWish."""

from __future__ import annotations

from collections.abc import Callable

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_steered import SteeredParser
from steerd.steering.steering import Steering
from steerd.studies.trace import TraceWish

_DEFAULT_TOP = 10


def parse_trace(
    message: pb.TraceRequest, parser: SteeredParser, plan_hash: Callable[[Steering], str]
) -> TraceWish:
    """What is to be traced. Raises what is wrong with the request."""
    violations = parser.study.violations
    text = parser.text()
    saes = parser.study.sae_names("saes", message.saes)
    if not saes:
        violations.add("saes", "needs a server that has loaded at least one SAE")
    positions = parser.positions(message.positions, text)
    top = message.top_k if message.HasField("top_k") else _DEFAULT_TOP
    violations.must_be_between("top_k", top, 0, parser.study.config.limits.max_top_k)
    parser.values(len(saes) * len(positions) * max(top, 1), "positions")
    violations.raise_if_any()
    assert text is not None  # otherwise a violation was recorded
    return TraceWish(
        text=text,
        plan_hash=plan_hash(text.steering),
        saes=saes,
        positions=positions,
        top=top,
        after_edit=message.after_edit,
    )
