"""Whole generations over loopback: the stream's shape and what is in it."""

from __future__ import annotations

import hashlib
import struct

import torch

from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.server.running_server import RunningServer
from tests.tiny_hosts import make_tiny_host

PROMPT = "the cat sat"


def request(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(**({"prompt": PROMPT} | fields))  # type: ignore[arg-type]


def test_a_stream_is_started_then_deltas_then_completed(server: RunningServer) -> None:
    generated = server.generate(request(sampling=pb.SamplingParams(max_new_tokens=12)))

    kinds = [message.WhichOneof("event") for message in generated.messages]
    assert kinds[0] == "started"
    assert kinds[-1] == "completed"
    assert set(kinds[1:-1]) == {"delta"}
    assert [message.sequence for message in generated.messages] == list(range(len(kinds)))


def test_greedy_tokens_are_those_of_generate(server: RunningServer) -> None:
    same_host = make_tiny_host("llama")
    prompt_ids = same_host.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expected = same_host.model.generate(
            prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=12, do_sample=False
        )

    generated = server.generate(request(sampling=pb.SamplingParams(max_new_tokens=12)))

    assert generated.token_ids == expected[0, prompt_ids.shape[1] :].tolist()
    assert generated.text == server.host.tokenizer.decode(generated.token_ids, skip_special_tokens=True)


def test_arrays_of_a_delta_run_in_parallel(server: RunningServer) -> None:
    generated = server.generate(request(sampling=pb.SamplingParams(max_new_tokens=12)))

    positions = [position for delta in generated.deltas for position in delta.positions]
    assert positions == list(range(len(PROMPT), len(PROMPT) + 12))
    for delta in generated.deltas:
        assert len(delta.token_ids) == len(delta.logprobs) == len(delta.token_texts)
        assert all(logprob <= 0 for logprob in delta.logprobs)
    with_tokens = [delta for delta in generated.deltas if delta.token_ids]
    assert all("".join(delta.token_texts) == delta.text for delta in with_tokens)


def test_started_repeats_what_will_be_done(server: RunningServer) -> None:
    add = steering.Intervention(
        feature=FeatureRef(sae="late", index=7),
        add=steering.Add(strength=0.5, unit=steering.UNIT_FEATURE_MAX),
    )
    recorded = float(server.saes.get("late").statistics.max_activation[7])  # type: ignore[union-attr]

    generated = server.generate(request(interventions=[add], sampling=pb.SamplingParams(max_new_tokens=2)))

    started = generated.started
    assert started.model == "tiny-llama"
    assert started.prompt_tokens == len(PROMPT)
    assert started.request_id == generated.trailers["steerd-request-id"]
    assert started.sampling.HasField("seed")
    assert (started.sampling.temperature, started.sampling.top_p, started.sampling.top_k) == (0, 1, 0)
    (echoed,) = started.interventions
    assert echoed.add.unit == steering.UNIT_ACTIVATION
    assert echoed.add.strength == 0.5 * recorded
    assert echoed.scope.phase == steering.PHASE_ALL


def test_equal_steering_has_an_equal_plan_hash_whatever_its_units(server: RunningServer) -> None:
    recorded = float(server.saes.get("late").statistics.max_activation[7])  # type: ignore[union-attr]
    late = FeatureRef(sae="late", index=7)
    adds = [
        steering.Add(strength=0.5, unit=steering.UNIT_FEATURE_MAX),
        steering.Add(strength=0.5 * recorded),
        steering.Add(strength=0.5),
    ]

    generated = [
        server.generate(
            request(
                interventions=[steering.Intervention(feature=late, add=add)],
                sampling=pb.SamplingParams(max_new_tokens=1),
            )
        )
        for add in adds
    ]

    first, same, other = (each.started.plan_hash for each in generated)
    assert len(first) == 64
    assert first == same
    assert first != other
    score = pb.ScoreRequest(
        prompt=PROMPT,
        continuations=[pb.Continuation(text="x")],
        interventions=[steering.Intervention(feature=late, add=adds[1])],
    )
    assert server.generation.Score(score).plan_hash == first


def test_what_steering_did_is_told_at_the_end_and_after_each_edit(server: RunningServer) -> None:
    late, early = FeatureRef(sae="late", index=7), FeatureRef(sae="early", index=2)
    steps = steering.Scope(phase=steering.PHASE_GENERATED)
    edits = [
        steering.Intervention(feature=late, add=steering.Add(strength=0.0)),
        steering.Intervention(feature=early, ablate=steering.Ablate(), scope=steps),
        steering.Intervention(
            direction=steering.Direction(hook_point="blocks.0.hook_resid_pre", values=[1.0] * 32),
            add=steering.Add(strength=0.5),
        ),
    ]

    generated = server.generate(
        request(
            interventions=edits,
            sampling=pb.SamplingParams(max_new_tokens=6),
            capture=pb.Capture(watch=[early, late], top_k=1, after_edit=True),
        )
    )

    receipt = generated.completed.receipt
    rows = len(PROMPT) + 5
    assert receipt.plan_hash == generated.started.plan_hash
    nothing, ablated, along = receipt.interventions
    assert (nothing.rows, nothing.rows_changed, nothing.mean_relative_norm) == (rows, 0, 0.0)
    assert ablated.rows == 5
    assert along.rows == along.rows_changed == rows
    assert abs(along.mean_after - along.mean_before - 0.5) < 1e-4
    assert [point.hook_point for point in receipt.hook_points] == [
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_resid_post",
        "blocks.2.hook_resid_post",
    ]
    first, _, last = receipt.hook_points
    assert first.rows_changed == rows
    assert 0 < first.mean_relative_norm <= first.max_relative_norm < 1
    assert (last.rows_changed, last.max_relative_norm) == (0, 0.0)
    readings = [reading for delta in generated.deltas for reading in delta.readings]
    assert {len(reading.values_after) for reading in readings} == {1}
    assert all(reading.values_after == reading.values[:1] for reading in readings if reading.sae == "late")
    changed = [reading for reading in readings if reading.sae == "early" and reading.values[0] > 0][1:]
    assert all(reading.values_after[0] < reading.values[0] for reading in changed)


def test_the_seed_that_was_drawn_reproduces_the_text(server: RunningServer) -> None:
    sampling = pb.SamplingParams(max_new_tokens=20, temperature=1.0)
    first = server.generate(request(sampling=sampling))

    sampling.seed = first.started.sampling.seed
    again = server.generate(request(sampling=sampling))

    assert again.token_ids == first.token_ids


def test_completed_accounts_for_tokens_time_and_features(server: RunningServer) -> None:
    set_to_three = steering.Intervention(feature=FeatureRef(sae="early", index=5), set=steering.Set(value=3))

    generated = server.generate(
        request(
            sampling=pb.SamplingParams(max_new_tokens=6),
            interventions=[set_to_three],
            capture=pb.Capture(watch=[FeatureRef(sae="late", index=1)]),
        )
    )

    completed = generated.completed
    assert completed.finish_reason == pb.FINISH_REASON_LENGTH
    assert completed.usage == pb.Usage(prompt_tokens=len(PROMPT), generated_tokens=6)
    assert completed.timings.prefill_seconds > 0
    by_name = {f"{use.feature.sae}:{use.feature.index}": use for use in completed.features}
    assert set(by_name) == {"early:5", "late:1"}
    rows = len(PROMPT) + 5  # the last token is never fed back
    assert by_name["early:5"].steered_tokens == rows
    assert by_name["late:1"].steered_tokens == 0
    assert by_name["late:1"].max_activation >= by_name["late:1"].mean_activation >= 0


def test_readings_come_for_every_token_and_sae(server: RunningServer) -> None:
    generated = server.generate(
        request(
            sampling=pb.SamplingParams(max_new_tokens=4),
            capture=pb.Capture(watch=[FeatureRef(sae="late", index=1)], top_k=3, include_prompt=True),
        )
    )

    rows = range(len(PROMPT) + 3)
    found = [(reading.position, reading.sae) for reading in generated.readings]
    assert sorted(found) == sorted((row, sae) for row in rows for sae in ("early", "late"))
    assert all(len(reading.features) == len(reading.values) for reading in generated.readings)
    assert all(reading.features[0] == 1 for reading in generated.readings if reading.sae == "late")
    assert list(generated.started.prompt_token_texts) == list(PROMPT)


def test_without_include_prompt_only_generated_tokens_are_read(server: RunningServer) -> None:
    generated = server.generate(
        request(
            sampling=pb.SamplingParams(max_new_tokens=4), capture=pb.Capture(top_k=2, top_k_saes=["early"])
        )
    )

    assert {reading.sae for reading in generated.readings} == {"early"}
    assert min(reading.position for reading in generated.readings) == len(PROMPT) - 1
    assert not generated.started.prompt_token_texts


def test_a_chat_goes_through_the_template(server: RunningServer) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"

    generated = server.generate(
        pb.GenerateRequest(
            chat=chat, sampling=pb.SamplingParams(max_new_tokens=1), capture=pb.Capture(include_prompt=True)
        )
    )

    assert "".join(generated.started.prompt_token_texts) == text


def test_token_ids_are_used_as_they_are(server: RunningServer) -> None:
    ids = list(PROMPT.encode())

    from_ids = server.generate(
        pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), sampling=pb.SamplingParams(max_new_tokens=5))
    )
    from_text = server.generate(request(sampling=pb.SamplingParams(max_new_tokens=5)))

    assert from_ids.token_ids == from_text.token_ids


def test_the_text_never_contains_a_stop_string(server: RunningServer) -> None:
    whole = server.generate(request(sampling=pb.SamplingParams(max_new_tokens=40))).text
    stop = whole[8:11]

    generated = server.generate(request(sampling=pb.SamplingParams(max_new_tokens=40, stop=[stop])))

    assert generated.completed.finish_reason == pb.FINISH_REASON_STOP_SEQUENCE
    assert generated.text == whole[: whole.index(stop)]


def test_steering_changes_the_text_and_leaves_a_neighbour_alone(server: RunningServer) -> None:
    sampling = pb.SamplingParams(max_new_tokens=12)
    plain = server.generate(request(sampling=sampling))
    strong = steering.Intervention(feature=FeatureRef(sae="early", index=9), add=steering.Add(strength=50))

    steered_call = server.generation.Generate(request(sampling=sampling, interventions=[strong]))
    neighbour = server.generate(request(sampling=sampling))
    steered = [i for message in steered_call for i in message.delta.token_ids]

    assert steered != plain.token_ids
    assert neighbour.token_ids == plain.token_ids


def test_max_new_tokens_defaults_to_what_the_context_leaves(server: RunningServer) -> None:
    ids = [65] * (server.host.max_context - 3)

    generated = server.generate(pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids)))

    assert generated.started.sampling.max_new_tokens == 3
    assert generated.completed.usage.generated_tokens <= 3


def test_started_repeats_every_kind_of_intervention(server: RunningServer) -> None:
    """Units resolved, directions by their hash, and nothing that was asked for lost."""
    values = [3.0, 4.0] + [0.0] * (server.host.d_model - 2)
    scope = steering.Scope(
        phase=steering.PHASE_PROMPT,
        include_special_tokens=True,
        first_n=9,
        last_n=8,
        positions=[steering.PositionRange(start=-5), steering.PositionRange(start=0, end=3)],
        token_ids=[65, 66],
        excluded_token_ids=[70],
        roles=["user", "system"],
    )
    limited = steering.Intervention(
        feature=FeatureRef(sae="late", index=7),
        limit=steering.Limit(max=2, unit=steering.UNIT_FEATURE_MAX),
        scope=scope,
        schedule=steering.Schedule(start_after=1, ramp=2, half_life=3, at_most=4),
        preserve_norm=True,
    )
    along = steering.Intervention(
        direction=steering.Direction(hook_point="blocks.1.hook_resid_pre", values=values),
        set=steering.Set(value=1.5, only_if_active=True),
    )
    whole = steering.Intervention(sae="early", reconstruct=steering.Reconstruct())
    message = pb.GenerateRequest(
        chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="Hi")]),
        sampling=pb.SamplingParams(max_new_tokens=3),
        interventions=[limited, along, whole],
    )

    got_limit, got_along, got_whole = server.generate(message).started.interventions

    wanted = steering.Intervention()
    wanted.CopyFrom(limited)
    wanted.limit.CopyFrom(steering.Limit(max=4.0, unit=steering.UNIT_ACTIVATION))  # recorded: (7 + 1) / 4
    assert got_limit == wanted
    unit = struct.pack(f"<{len(values)}f", *(value / 5 for value in values))
    assert got_along.direction == steering.Direction(
        hook_point="blocks.1.hook_resid_pre", sha256=hashlib.sha256(unit).hexdigest()
    )
    assert got_along.set == steering.Set(value=1.5, unit=steering.UNIT_ACTIVATION, only_if_active=True)
    assert (got_whole.sae, got_whole.WhichOneof("operation")) == ("early", "reconstruct")


def test_a_role_is_steered_where_its_message_stands(server: RunningServer) -> None:
    """As an edit of those positions and of the generated ones, and unlike one of the other role."""
    contents = {"system": "Be brief.", "user": "Tell me."}
    chat = pb.Chat(messages=[pb.ChatMessage(role=role, content=text) for role, text in contents.items()])

    def ids(**scope: object) -> list[int]:
        strong = steering.Intervention(
            feature=FeatureRef(sae="early", index=9),
            add=steering.Add(strength=50),
            scope=steering.Scope(**scope),  # type: ignore[arg-type]
        )
        sampling = pb.SamplingParams(max_new_tokens=12)
        return server.generate(
            pb.GenerateRequest(chat=chat, sampling=sampling, interventions=[strong])
        ).token_ids

    start = len("?system\n")  # the template's marker is one token
    there = steering.PositionRange(start=start, end=start + len("Be brief."))
    assert ids(roles=["system"]) == ids(positions=[there], phase=steering.PHASE_PROMPT)
    assert ids(roles=["system"]) != ids(roles=["user"])
    assert ids(roles=["assistant"]) == ids(phase=steering.PHASE_GENERATED)
