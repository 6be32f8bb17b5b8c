"""Damaged requests: whatever the bytes, the answer is OK or the client's fault, never ours."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import grpc

from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.server.scripted import ScriptedServer, finished, scripted_server

LATE = FeatureRef(sae="late", index=3)
WHOLE = pb.GenerateRequest(
    request_id="an-id",
    chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="h\N{LATIN SMALL LETTER E WITH ACUTE}llo")]),
    sampling=pb.SamplingParams(max_new_tokens=3, temperature=0.5, top_p=0.9, top_k=4, seed=7, stop=["x"]),
    interventions=[
        steering.Intervention(feature=LATE, add=steering.Add(strength=2, unit=steering.UNIT_FEATURE_MAX)),
        steering.Intervention(
            feature=FeatureRef(sae="early"),
            scale=steering.Scale(factor=-1),
            scope=steering.Scope(phase=2),
        ),  # type: ignore[arg-type]
        steering.Intervention(
            direction=steering.Direction(hook_point="blocks.1.hook_resid_pre", values=[0.5] * 32),
            set=steering.Set(value=1, only_if_active=True),
            scope=steering.Scope(
                phase=steering.PHASE_PROMPT,
                include_special_tokens=True,
                first_n=9,
                last_n=5,
                positions=[steering.PositionRange(start=-4, end=-1)],
                token_ids=[104, 108],
                excluded_token_ids=[111],
                roles=["user"],
            ),
            schedule=steering.Schedule(start_after=1, ramp=2, half_life=3, at_most=4),
            when=steering.Condition(
                any_of=[
                    steering.Clause(all_of=[steering.FeatureTest(feature=FeatureRef(sae="early"), above=1)]),
                    steering.Clause(
                        all_of=[
                            steering.FeatureTest(
                                direction=steering.Direction(
                                    hook_point="blocks.1.hook_resid_pre", values=[0.25] * 32
                                ),
                                above=3,
                                unit=steering.UNIT_RESID_NORM,
                                release_below=2,
                                include_special_tokens=True,
                            )
                        ]
                    ),
                ]
            ),
            preserve_norm=True,
        ),
        steering.Intervention(feature=FeatureRef(sae="late", index=9), limit=steering.Limit(min=-1, max=2)),
        steering.Intervention(sae="late", reconstruct=steering.Reconstruct()),
    ],
    capture=pb.Capture(watch=[LATE], top_k=2, top_k_saes=["early"], include_prompt=True, after_edit=True),
    presets=["calm@1"],
    triggers=[
        steering.Trigger(
            name="end",
            when=steering.Condition(
                any_of=[
                    steering.Clause(all_of=[steering.FeatureTest(feature=LATE, above=1, from_first=True)])
                ]
            ),
            stop=steering.Stop(),
        ),
        steering.Trigger(
            name="turn",
            when=steering.Condition(
                any_of=[steering.Clause(all_of=[steering.FeatureTest(feature=LATE, above=2)])]
            ),
            switch=steering.Switch(preset="calm"),
        ),
        steering.Trigger(
            name="seen",
            when=steering.Condition(
                any_of=[steering.Clause(all_of=[steering.FeatureTest(feature=LATE, above=9)])]
            ),
            flag=steering.Flag(),
        ),
    ],
    baseline=True,
).SerializeToString()
CLIENT_FAULTS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


def mutants(count: int) -> list[bytes]:
    """Every truncation, and copies with a few bytes overwritten, dropped or doubled."""
    rng = random.Random(0)
    found = [WHOLE[:length] for length in range(len(WHOLE) + 1)]
    for _ in range(count):
        data = bytearray(WHOLE)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + 1] = rng.choice([rng.randbytes(1), b"", data[at : at + 1] * 2])
        found.append(bytes(data))
    return found


async def code_of(server: ScriptedServer, data: bytes) -> str:
    call = server.channel.unary_stream("/steerd.v1.GenerationService/Generate")(data, timeout=60)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def test_no_mutant_of_a_request_is_a_fault_of_the_server() -> None:
    async def scenario() -> Counter[str]:
        async with scripted_server(finished()) as server:
            return Counter([await code_of(server, data) for data in mutants(1000)])

    codes = asyncio.run(scenario())

    assert set(codes) == CLIENT_FAULTS
