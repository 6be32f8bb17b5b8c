"""Studies of steered texts through protobuf and back."""

from __future__ import annotations

import random

import pytest

from steerd.client_messages import ChatTurn, Unit
from steerd.engine.study import Progress
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import generation_service_pb2, steering_pb2
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention
from steerd.steering.receipt import HookPointReceipt, InterventionReceipt, Receipt
from steerd.steering.scope import PositionRange
from steerd.steering.steering import NamedVersion
from steerd.studies.applied_steering import AppliedSteering
from steerd.studies.effect_table import EffectTable, FeatureEffect
from steerd.studies.lens_table import ChosenToken, LensCell, LensTable, LikelyToken
from steerd.studies.trace_table import TracedFeature, TracedRow, TraceTable
from steerd.study_wire.effects import EffectsCall, effects_event, effects_message, effects_request
from steerd.study_wire.logit_lens import LensCall, lens_event, lens_message, lens_request
from steerd.study_wire.steered_text import SteeredStudyText
from steerd.study_wire.study_text import StudyText
from steerd.study_wire.trace import TraceCall, trace_event, trace_message, trace_request

CHANCE = random.Random()
FEATURE = FeatureRef("late", 7)
STEERED = SteeredStudyText(
    text=StudyText(chat=(ChatTurn("user", "Hi"),)),
    continuation=(5, 6),
    interventions=(Intervention(target=FEATURE, operation=Add(2.0)),),
    presets=("calm",),
    unit=Unit.FEATURE_MAX,
)
LABELS = (
    FeatureLabel("tested", (LabelScore("detection", 0.25, 9, "judge"),), "writer"),
    FeatureLabel("untested"),
    None,
)


def some() -> float:
    """A number that float32 holds."""
    return CHANCE.randrange(-999, 999) / 16


STEERING = AppliedSteering(
    interventions=(Intervention(target=FEATURE, operation=Ablate(), source="policy:p@1"),),
    presets=(NamedVersion("calm", "2"),),
    policies=(NamedVersion("p", "1"),),
    warnings=("mind", "the dose"),
    plan_hash="abc",
    receipt=Receipt(
        (InterventionReceipt(3, 2, some(), some(), some()),), (HookPointReceipt("here", 2, some(), some()),)
    ),
)


def test_a_lens_comes_back_as_it_was() -> None:
    cells = tuple(
        LensCell(
            layer=layer,
            position=layer + 4,
            top=tuple(LikelyToken(n, f"t{n}", some()) for n in range(layer)),
            chosen=(ChosenToken(some(), 3), ChosenToken(some(), 1)),
        )
        for layer in range(3)
    )
    table = LensTable(
        token_ids=(3, 4),
        token_texts=("a", "\N{SNOWMAN}"),
        chosen_ids=(8, 9),
        chosen_texts=("x", ""),
        cells=cells,
        steering=STEERING,
        complete=True,
    )
    message = pb.LogitLensResponse(result=lens_message(table))

    assert lens_event(pb.LogitLensResponse.FromString(message.SerializeToString())) == table


def test_a_trace_comes_back_as_it_was() -> None:
    rows = tuple(
        TracedRow(
            sae=f"sae-{n}",
            hook_point="blocks.1.hook_resid_post",
            position=n,
            resid_norm=some(),
            error_norm=some(),
            unexplained=some(),
            active=77,
            features=tuple(TracedFeature(n, some(), some(), label) for label in LABELS),
        )
        for n in range(2)
    )
    table = TraceTable(token_ids=(3, 4), token_texts=("a", "b"), rows=rows, steering=STEERING, complete=False)
    message = pb.TraceResponse(result=trace_message(table))

    assert trace_event(pb.TraceResponse.FromString(message.SerializeToString())) == table


def test_effects_come_back_as_they_were() -> None:
    effects = tuple(
        FeatureEffect(feature=FEATURE, label=label, activations=(0.0, some()), changes=(0.0, some()))
        for label in LABELS
    )
    table = EffectTable(
        token_ids=(3, 4),
        token_texts=("a", "b"),
        logprobs=(0.0, some()),
        ordinary=(False, True),
        effects=effects,
        steering=STEERING,
        complete=True,
    )
    message = pb.MeasureEffectsResponse(result=effects_message(table))

    assert effects_event(pb.MeasureEffectsResponse.FromString(message.SerializeToString())) == table
    assert [effect.total_change for effect in message.result.effects] == [
        effect.changes[1] for effect in effects
    ]


@pytest.mark.parametrize(
    ("read", "response"),
    [
        (lens_event, pb.LogitLensResponse),
        (trace_event, pb.TraceResponse),
        (effects_event, pb.MeasureEffectsResponse),
    ],
)
def test_progress_comes_back_as_it_was(read: object, response: object) -> None:
    message = response(progress=pb.StudyProgress(done=3, total=8, unit="rows"))  # type: ignore[operator]

    assert read(message) == Progress(3, 8, "rows")  # type: ignore[operator]


def test_the_messages_of_calls() -> None:
    shared = {
        "text": pb.Text(
            chat=generation_service_pb2.Chat(
                messages=[generation_service_pb2.ChatMessage(role="user", content="Hi")]
            )
        ),
        "continuation": generation_service_pb2.Continuation(
            token_ids=generation_service_pb2.TokenIds(ids=[5, 6])
        ),
        "interventions": [
            steering_pb2.Intervention(
                feature={"sae": "late", "index": 7},  # type: ignore[arg-type]
                add=steering_pb2.Add(strength=2, unit=steering_pb2.UNIT_FEATURE_MAX),
                scope=steering_pb2.Scope(phase=steering_pb2.PHASE_ALL),
            )
        ],
        "presets": ["calm"],
        "request_id": "name",
        "max_seconds": 2.5,
    }
    positions = [steering_pb2.PositionRange(start=-5), steering_pb2.PositionRange(start=1, end=3)]
    asked = (PositionRange(-5), PositionRange(1, 3))

    assert lens_request(
        LensCall(
            steered=STEERED,
            layers=(0, 2),
            positions=asked,
            top=0,
            tokens=(" Paris", 17),
            request_id="name",
            max_seconds=2.5,
        )
    ) == pb.LogitLensRequest(
        layers=[0, 2],
        positions=positions,
        top_k=0,
        tokens=[pb.TokenChoice(text=" Paris"), pb.TokenChoice(id=17)],
        **shared,  # type: ignore[arg-type]
    )
    assert trace_request(
        TraceCall(
            steered=STEERED,
            saes=("late",),
            positions=asked,
            after_edit=True,
            request_id="name",
            max_seconds=2.5,
        )
    ) == pb.TraceRequest(saes=["late"], positions=positions, after_edit=True, **shared)  # type: ignore[arg-type]
    assert effects_request(
        EffectsCall(
            steered=STEERED,
            features=(FEATURE,),
            include_special_tokens=True,
            request_id="name",
            max_seconds=2.5,
        )
    ) == pb.MeasureEffectsRequest(
        features=[{"sae": "late", "index": 7}],  # type: ignore[list-item]
        include_special_tokens=True,
        **shared,  # type: ignore[arg-type]
    )


def test_a_text_without_a_continuation_has_none() -> None:
    steered = SteeredStudyText(text=StudyText(prompt="Hi"))

    assert not trace_request(TraceCall(steered=steered)).HasField("continuation")
