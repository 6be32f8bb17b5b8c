"""No field of a request gets around a policy: every one of them is tried, with values that might.

The policies ablate a direction on all rows and cap the dose. A hook of the test's own, behind the engine's,
looks at every row that leaves the hook point; what the server says it applies is held against the cap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import grpc
import pytest
import torch
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from torch import Tensor

from steerd.config import LimitsConfig, NamedTable, SaeConfig
from steerd.host.hook_point import HookPoint
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config
from tests.server.test_dose import NORM, POINT, known_saes
from tests.tiny_hosts import make_tiny_host

M = TypeVar("M", bound=Message)

MAX_DOSE = 0.75
ABLATED = [1.0, -2.0, 3.0, 0.5] * 8
NEARLY = [1.0, -2.0, 3.0, 0.501] * 8  # another direction, that could take the ablation back
SERVER_WORDS = ["", "known", "unknown", "loud@1", "never", "policy:never@1", "*", POINT]


def policy(name: str, **fields: Any) -> NamedTable:
    return NamedTable(name=name, version="1", table={"name": name, "version": "1"} | fields)


ABLATION = {
    "direction": {"hook_point": POINT, "values": ABLATED},
    "ablate": {},
    "scope": {"include_special_tokens": True},
}
POLICIES = (
    policy("never", interventions=[ABLATION]),
    policy("cap", max_dose=MAX_DOSE, over_dose="OVER_DOSE_CLAMP"),
)
LOUD = policy(
    "loud",
    interventions=[{"direction": {"hook_point": POINT, "values": NEARLY}, "add": {"strength": 500}}],
)

SCOPE = steering.Scope(
    phase=steering.PHASE_PROMPT,
    include_special_tokens=True,
    first_n=9,
    last_n=60,
    positions=[steering.PositionRange(start=-60, end=-1)],
    token_ids=[104, 108],
    excluded_token_ids=[111],
    roles=["user"],
)
CONDITION = steering.Condition(
    any_of=[
        steering.Clause(
            all_of=[
                steering.FeatureTest(feature=FeatureRef(sae="known", index=3), above=-1, release_below=-2),
                steering.FeatureTest(
                    direction=steering.Direction(hook_point=POINT, values=NEARLY),
                    above=-1e5,
                    from_first=True,
                    include_special_tokens=True,
                ),
            ]
        )
    ]
)
INTERVENTIONS = [
    steering.Intervention(
        direction=steering.Direction(hook_point=POINT, values=NEARLY),
        add=steering.Add(strength=30, unit=steering.UNIT_ACTIVATION),
        scope=SCOPE,
        schedule=steering.Schedule(start_after=1, ramp=2, half_life=3, at_most=4),
        preserve_norm=True,
    ),
    steering.Intervention(
        feature=FeatureRef(sae="known", index=3), set=steering.Set(value=9), when=CONDITION
    ),
    steering.Intervention(feature=FeatureRef(sae="known", index=4), scale=steering.Scale(factor=9)),
    steering.Intervention(feature=FeatureRef(sae="known", index=5), limit=steering.Limit(min=-1, max=7)),
    steering.Intervention(sae="known", reconstruct=steering.Reconstruct()),
]
CHAT = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
TRIGGERS = [
    steering.Trigger(name="never", when=CONDITION, flag=steering.Flag()),
    steering.Trigger(name="other", when=CONDITION, stop=steering.Stop()),
]
CAPTURE = pb.Capture(
    watch=[FeatureRef(sae="known", index=3)],
    top_k=2,
    top_k_saes=["known"],
    include_prompt=True,
    after_edit=True,
)
CARRIERS: list[pb.GenerateRequest | pb.ScoreRequest] = [
    pb.GenerateRequest(
        chat=CHAT,
        sampling=pb.SamplingParams(max_new_tokens=2, temperature=0.5, top_p=0.9, top_k=4, seed=7, stop=["x"]),
        interventions=INTERVENTIONS,
        presets=["loud"],
        triggers=TRIGGERS,
        capture=CAPTURE,
        baseline=True,
    ),
    pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=[104, 101]),
        sampling=pb.SamplingParams(max_new_tokens=3),
        triggers=[steering.Trigger(name="turn", when=CONDITION, switch=steering.Switch(preset="loud"))],
    ),
    pb.ScoreRequest(
        chat=CHAT,
        continuations=[pb.Continuation(text="th"), pb.Continuation(token_ids=pb.TokenIds(ids=[33, 34]))],
        interventions=INTERVENTIONS,
        presets=["loud"],
        capture=CAPTURE,
        baseline=True,
    ),
    pb.ScoreRequest(
        token_ids=pb.TokenIds(ids=[104, 101]), continuations=[pb.Continuation(text=" there")], baseline=True
    ),
]
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
}

_EDIT = {
    "direction.hook_point",
    "direction.sha256",
    "direction.values",
    "feature.index",
    "feature.sae",
    "add.strength",
    "add.unit",
    "set.only_if_active",
    "set.unit",
    "set.value",
    "scale.factor",
    "ablate",
    "limit.max",
    "limit.min",
    "limit.unit",
    "reconstruct",
    "sae",
    "scope.excluded_token_ids",
    "scope.first_n",
    "scope.include_special_tokens",
    "scope.last_n",
    "scope.phase",
    "scope.positions.end",
    "scope.positions.start",
    "scope.roles",
    "scope.token_ids",
    "schedule.at_most",
    "schedule.half_life",
    "schedule.ramp",
    "schedule.start_after",
    "preserve_norm",
    "source",
}
_TEST = {
    "feature.index",
    "feature.sae",
    "direction.hook_point",
    "direction.sha256",
    "direction.values",
    "above",
    "unit",
    "release_below",
    "from_first",
    "include_special_tokens",
}
_SHARED = {
    "request_id",
    "prompt",
    "chat.messages.content",
    "chat.messages.role",
    "token_ids.ids",
    *(f"interventions.{name}" for name in _EDIT),
    *(f"interventions.when.any_of.all_of.{name}" for name in _TEST),
    "presets",
    "capture.watch.index",
    "capture.watch.sae",
    "capture.top_k",
    "capture.top_k_saes",
    "capture.include_prompt",
    "capture.after_edit",
    "baseline",
}
TRIED = {
    "GenerateRequest": _SHARED
    | {f"triggers.{name}" for name in ("name", "stop", "switch.preset", "flag", "source")}
    | {f"triggers.when.any_of.all_of.{name}" for name in _TEST}
    | {f"sampling.{name}" for name in ("max_new_tokens", "temperature", "top_p", "top_k", "seed", "stop")},
    "ScoreRequest": _SHARED | {"continuations.text", "continuations.token_ids.ids"},
}
"""Whoever adds a field to a request lists it here, and gives it a place in a carrier."""


def leaves(descriptor: Descriptor, prefix: str = "") -> Iterator[str]:
    """The paths of all fields that hold something, messages without fields among them."""
    for field in descriptor.fields:
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.fields:
            yield from leaves(field.message_type, f"{path}.")
        else:
            yield path


def holders(message: Message, path: list[str]) -> Iterator[tuple[Message, FieldDescriptor]]:
    """The messages within one that have the last field of a path, each with that field."""
    field = message.DESCRIPTOR.fields_by_name[path[0]]
    if len(path) == 1:
        yield message, field
    elif field.is_repeated:
        for part in getattr(message, path[0]):
            yield from holders(part, path[1:])
    elif message.HasField(path[0]):
        yield from holders(getattr(message, path[0]), path[1:])


def values(field: FieldDescriptor) -> list[Any]:
    """What might get around something, by type; for a repeated field, of one element."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return [0.0, -1e6, 3e38, math.nan, -math.inf]
        case FieldDescriptor.CPPTYPE_BOOL:
            return [False, True]
        case FieldDescriptor.CPPTYPE_ENUM:
            return [*range(6), 99]
        case FieldDescriptor.CPPTYPE_STRING:
            return SERVER_WORDS
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            return [0, -1, -(2**31), 2**31 - 1]
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return [0, 1, 3, 2**32 - 1]
        case _:
            return []  # a message without fields: there is only to set it


def attempts(carrier: M, path: str) -> Iterator[M]:
    """Copies of a request, each with one value at one of the first two places of the path."""
    for place, (_, field) in enumerate(islice(holders(carrier, path.split(".")), 2)):
        if field.message_type is not None:
            yield changed(carrier, path, place, lambda holder, name: getattr(holder, name).SetInParent())
        for value in values(field):
            if field.is_repeated:
                yield changed(carrier, path, place, lambda h, n, v=value: put(h, n, [v]))
                yield changed(carrier, path, place, lambda h, n, v=value: put(h, n, [*getattr(h, n), v, v]))
            else:
                yield changed(carrier, path, place, lambda h, n, v=value: setattr(h, n, v))


def put(holder: Message, name: str, elements: list[Any]) -> None:
    holder.ClearField(name)
    getattr(holder, name).extend(elements)


def changed(carrier: M, path: str, place: int, change: Any) -> M:
    copy = type(carrier)()
    copy.CopyFrom(carrier)
    holder, field = list(holders(copy, path.split(".")))[place]
    change(holder, field.name)
    return copy


class RowsBehind:
    """A hook behind the engine's: the largest share of a row that lies along the ablated direction."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.largest_share = 0.0
        self._direction = torch.tensor(ABLATED) / torch.tensor(ABLATED).norm()

    def __call__(self, rows: Tensor) -> None:
        self.num_rows += len(rows)
        share = (rows @ self._direction).abs() / rows.norm(dim=1)
        self.largest_share = max(self.largest_share, float(share.max()))


class Watched:
    """A server with the policies, and what leaves the hook point in it."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.generate(pb.GenerateRequest(prompt="a"))  # the engine's hook is there from now on
        self.rows = RowsBehind()
        server.host.attach(HookPoint.parse(POINT), self.rows)

    def send(self, request: Message) -> bool:
        """Whether a request was served; what policies demand must have held then."""
        try:
            if isinstance(request, pb.GenerateRequest):
                interventions, policies = self.generate(request)
            else:
                interventions, policies = self.score(request)
        except grpc.RpcError as error:
            if error.code() in REFUSALS:
                return False
            raise
        assert [named.name for named in policies] == ["never", "cap"]
        assert [edit.source for edit in interventions if edit.source.startswith("policy:")] == [
            "policy:never@1"
        ]
        brought = [edit.source.startswith("switch:") for edit in interventions]
        for together in (False, True):  # either is in force, the request's own edits or a switch's
            edits = [edit for edit, its in zip(interventions, brought, strict=True) if its == together]
            assert dose(edits) <= MAX_DOSE * 1.0001, edits
        assert self.rows.largest_share < 1e-5, request
        return True

    def generate(self, request: pb.GenerateRequest) -> tuple[Any, Any]:
        started = self._server.generate(request).started
        return started.interventions, started.policies

    def score(self, request: Message) -> tuple[Any, Any]:
        answer = self._server.generation.Score(request, timeout=TIMEOUT_SECONDS)  # type: ignore[arg-type]
        return answer.interventions, answer.policies


def dose(interventions: list[steering.Intervention]) -> float:
    """At the hook point whose median norm is known, as the operator reads it: directions have length 1."""
    total = 0.0
    for edit in interventions:
        if edit.source.startswith("policy:") or edit.feature.sae == "unknown":
            continue
        if edit.direction.hook_point not in ("", POINT):
            continue
        total += abs(edit.add.strength) + abs(edit.set.value)
        if edit.WhichOneof("operation") == "scale":
            index = edit.feature.index
            largest = 0.0 if index == 1 else (index + 1) / 4  # as recorded; of feature 1, nothing
            total += max(edit.scale.factor - 1, -edit.scale.factor, 0.0) * largest
        if edit.WhichOneof("operation") == "limit":
            low = edit.limit.min if edit.limit.HasField("min") else 0.0
            high = edit.limit.max if edit.limit.HasField("max") else 0.0
            total += max(low, -high, 0.0)
    return total / NORM


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    host = make_tiny_host()
    limits = LimitsConfig(default_max_new_tokens=3, max_new_tokens=8)
    saes = tuple(SaeConfig(name=name, path="in memory") for name in ("known", "unknown"))
    config = tiny_config(saes=saes, presets=(LOUD,), policies=POLICIES, limits=limits)
    with RunningServer(config, host, known_saes(host)) as server:
        yield Watched(server)


@pytest.mark.parametrize("message", [pb.GenerateRequest, pb.ScoreRequest])
def test_every_field_of_a_request_is_tried(message: type[Message]) -> None:
    found = set(leaves(message.DESCRIPTOR))

    assert found == TRIED[message.DESCRIPTOR.name]
    carriers = [carrier for carrier in CARRIERS if type(carrier) is message]
    untried = [path for path in found if not any(list(attempts(carrier, path)) for carrier in carriers)]
    assert untried == []


@pytest.mark.parametrize("number", range(len(CARRIERS)))
def test_no_value_of_a_field_gets_around_a_policy(watched: Watched, number: int) -> None:
    carrier = CARRIERS[number]
    rows_before = watched.rows.num_rows

    assert watched.send(carrier)
    served = [
        path
        for path in sorted(TRIED[carrier.DESCRIPTOR.name])
        for attempt in attempts(carrier, path)
        if watched.send(attempt)
    ]

    assert watched.rows.num_rows > rows_before
    assert len(served) > 20
