"""Edits that no row can get: a client is warned of them, and of no others."""

from __future__ import annotations

import pytest

from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer

CHAT = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
NEW_TOKENS = 4  # of which the last is never read
FAR = steering.Scope(positions=[steering.PositionRange(start=900)])
IDLE = {
    "a role that nobody has": (steering.Scope(roles=["User"]), steering.Schedule()),
    "positions that are never reached": (FAR, steering.Schedule()),
    "positions of the other phase": (
        steering.Scope(phase=steering.PHASE_GENERATED, positions=[steering.PositionRange(start=0, end=-1)]),
        steering.Schedule(),
    ),
    "a start after the end": (
        steering.Scope(phase=steering.PHASE_GENERATED),
        steering.Schedule(start_after=NEW_TOKENS - 1),
    ),
}
USEFUL = {
    "a role of the chat": (steering.Scope(roles=["user"]), steering.Schedule()),
    "a token that may come": (
        steering.Scope(token_ids=[5], phase=steering.PHASE_GENERATED),
        steering.Schedule(),
    ),
    "a start on the last row": (
        steering.Scope(phase=steering.PHASE_GENERATED),
        steering.Schedule(start_after=NEW_TOKENS - 2),
    ),
}


def edit(index: int, scope: steering.Scope, schedule: steering.Schedule) -> steering.Intervention:
    return steering.Intervention(
        feature=FeatureRef(sae="early", index=index),
        ablate=steering.Ablate(),
        scope=scope,
        schedule=schedule,
    )


def generated(server: RunningServer, *edits: steering.Intervention) -> list[str]:
    request = pb.GenerateRequest(
        chat=CHAT, sampling=pb.SamplingParams(max_new_tokens=NEW_TOKENS), interventions=edits
    )
    return list(server.generate(request).started.warnings)


@pytest.mark.parametrize("name", IDLE)
def test_what_edits_nothing_is_told_by_its_field(server: RunningServer, name: str) -> None:
    useful = edit(1, steering.Scope(), steering.Schedule())

    (warning,) = generated(server, useful, edit(2, *IDLE[name]))

    assert warning == "interventions[1]: edits nothing, as no row is in its scope and schedule"


@pytest.mark.parametrize("name", USEFUL)
def test_what_may_edit_something_is_not_told(server: RunningServer, name: str) -> None:
    assert generated(server, edit(2, *USEFUL[name])) == []


def test_a_score_tells_what_reaches_none_of_its_texts(server: RunningServer) -> None:
    def scored(start_after: int) -> list[str]:
        late = steering.Schedule(start_after=start_after)
        request = pb.ScoreRequest(
            prompt="hello",
            continuations=[pb.Continuation(text="ab"), pb.Continuation(text="abcd")],
            interventions=[edit(2, steering.Scope(phase=steering.PHASE_GENERATED), late)],
        )
        return list(server.generation.Score(request, timeout=TIMEOUT_SECONDS).warnings)

    assert scored(2) == []
    assert len(scored(3)) == 1
