"""The subcommands and the client against a real server with a tiny host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from steerd.__main__ import main
from steerd.client import Client
from steerd.client_channel import RemoteError
from steerd.client_messages import GenerateCall, ScoreCall
from steerd.config import NamedTable
from steerd.sae.sae_file import load_sae, save_sae
from steerd.steering.intervention import Add, FeatureRef, Intervention
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts
from tests.server.test_reload import bundle, serving_from

FEATURE = FeatureRef("late", 3)
PRESET = NamedTable(
    name="loud",
    version="2",
    table={
        "name": "loud",
        "version": "2",
        "description": "more of it",
        "interventions": [{"feature": {"sae": "late", "index": 3}, "add": {"strength": 4}}],
    },
)
POLICY = NamedTable(
    name="mild",
    version="1",
    table={
        "name": "mild",
        "version": "1",
        "max_dose": 1e6,
        "over_dose": "OVER_DOSE_REJECT",
        "allow": {"features": ["late:*", "early:*"], "presets": ["*"]},
    },
)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    config = tiny_config(presets=(PRESET,), policies=(POLICY,))
    with RunningServer(config, *tiny_parts()) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address, timeout_seconds=TIMEOUT_SECONDS) as connected:
        yield connected


def test_the_strongest_features_of_one_sae_can_be_asked_for(client: Client) -> None:
    call = GenerateCall(prompt="Hello", max_new_tokens=3, top_features=2, top_features_of=("early",))

    generation = client.generate(call)

    assert {reading.sae for reading in generation.readings} == {"early"}


def test_a_generation_is_whole(client: Client) -> None:
    call = GenerateCall(
        prompt="Hello",
        max_new_tokens=6,
        watch=(FEATURE,),
        top_features=2,
        interventions=(Intervention(target=FEATURE, operation=Add(2.0)),),
    )

    generation = client.generate(call)

    assert generation.started.prompt_tokens == generation.completed.prompt_tokens
    assert len(generation.tokens) == generation.completed.generated_tokens
    assert {reading.sae for reading in generation.readings} == {"early", "late"}
    assert all(FEATURE.index in reading.features for reading in generation.readings if reading.sae == "late")
    (use,) = generation.completed.features
    assert use.feature == FEATURE
    assert use.steered_tokens > 0
    assert generation.started.interventions == call.interventions
    (receipt,) = generation.completed.receipt.interventions
    assert receipt.rows == use.steered_tokens


def test_continuations_are_scored(client: Client) -> None:
    steered = Intervention(target=FEATURE, operation=Add(2.0))
    call = ScoreCall(
        prompt="Hello",
        continuations=(" there", (33, 34)),
        interventions=(steered,),
        baseline=True,
        watch=(FEATURE,),
    )

    text, ids = client.score(call).texts

    assert text.token_texts == tuple(" there")
    assert ids.token_ids == (33, 34)
    assert len(text.logprobs) == len(text.baseline_logprobs) == len(text.likeliest) == len(text.readings) == 6
    assert text.total_logprob == pytest.approx(sum(text.logprobs), rel=1e-5)
    assert text.total_logprob != text.baseline_total_logprob
    plain = client.score(replace(call, interventions=())).texts[0]
    assert plain.total_logprob == pytest.approx(text.baseline_total_logprob, abs=1e-4)


def test_the_score_command_prints_what_steering_changed(
    server: RunningServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "Hello", " there", "!", "--raw", "--address", server.address]
    assert main([*command, "--add", "late:3=200"]) == 0

    steered = Intervention(target=FEATURE, operation=Add(200.0))
    scores = client.score(
        ScoreCall(prompt="Hello", continuations=(" there", "!"), interventions=(steered,), baseline=True)
    )
    printed, told = capsys.readouterr()
    assert scores.warnings
    for warning in scores.warnings:
        assert "".join(warning.split()) in "".join(told.split())
    for score in scores.texts:
        change = score.total_logprob - score.baseline_total_logprob
        for number in (score.total_logprob, score.baseline_total_logprob, change):
            assert any(abs(number - found) < 0.01 for found in numbers(printed))
    assert main(command) == 0
    unsteered = numbers(capsys.readouterr().out)
    assert any(abs(scores.texts[0].baseline_total_logprob - found) < 0.01 for found in unsteered)


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"[-+]?\d+\.\d+", text)]


def test_a_refusal_carries_the_servers_words(client: Client) -> None:
    with pytest.raises(RemoteError, match="temperature") as refusal:
        client.generate(GenerateCall(prompt="Hello", temperature=-1.0))

    assert refusal.value.code == "INVALID_ARGUMENT"
    assert refusal.value.reason == "INVALID_REQUEST"


def test_a_stream_can_be_left_early(client: Client) -> None:
    stream = client.stream(GenerateCall(prompt="Hello", max_new_tokens=100))
    next(stream)

    stream.close()

    assert client.generate(GenerateCall(prompt="Hello", max_new_tokens=1)).completed.generated_tokens == 1


def test_a_running_server_is_waited_for_at_once(client: Client) -> None:
    client.wait_until_serving(TIMEOUT_SECONDS)

    assert client.is_serving()


def test_generate_prints_text_and_tables(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--address",
        server.address,
        "--max-new-tokens",
        "5",
        "--add",
        "late:3=2",
        "--top-features",
        "2",
        "--after-edit",
    ]

    assert main(["generate", "Hello", "--raw", "--baseline", *options]) == 0

    output = capsys.readouterr()
    assert output.out.strip()
    assert "Without steering" in output.err
    assert "late:3" in output.err
    assert "Most active features" in output.err
    assert "After the edits" in output.err
    assert "Receipt" in output.err
    assert "add late:3=2" in output.err
    assert "5 generated" in output.err


def test_generate_without_features_prints_the_text_only(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "Hello", "--address", server.address, "--max-new-tokens", "3", "--raw"]) == 0

    assert "Summary" not in capsys.readouterr().err


def test_an_unknown_sae_is_one_line(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "Hello", "--address", server.address, "--add", "absent:3=2"]) == 1

    assert "absent" in capsys.readouterr().err


def test_saes_are_reloaded_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving_from(tmp_path, seed=1) as server:
        address = ["--address", server.address]
        save_sae(tmp_path / "early", bundle(server.host, 9))
        assert main(["saes", "reload", "early", *address]) == 0
        (tmp_path / "late" / "cfg.json").unlink()
        assert main(["saes", "reload", "late", *address]) == 1
        assert main(["saes", "reload", *address]) != 0
        assert main(["saes", "list", "early", *address]) != 0

    told = capsys.readouterr()
    assert load_sae(tmp_path / "early").metadata.weights_sha256[:12] in told.out
    assert "what was served before still is" in told.err
    assert "cfg.json" in told.err
    assert "takes the names of SAEs" in told.err


def test_saes_are_listed_whole(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["saes", "--address", server.address]) == 0

    output = capsys.readouterr().out
    assert "early" in output
    assert "blocks.2.hook_resid_post" in output


def test_presets_are_listed_and_applied_by_name(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["presets", "--address", server.address]) == 0
    listed = capsys.readouterr().out
    assert main(["generate", "Hello", "--address", server.address, "--preset", "loud", "--raw"]) == 0
    told = capsys.readouterr().err
    assert main(["score", "Hello", " there", "--address", server.address, "--preset", "loud@2", "--raw"]) == 0

    for word in ("loud", "more of it", "add late:3=4", "mild", "1000000, reject", "late:0-63", "preset *"):
        assert word in listed
    assert "presets: loud@2" in told
    assert "policies: mild@1" in told
    assert "unsteered" in capsys.readouterr().out


def test_health_of_a_server_that_serves_is_status_0(server: RunningServer) -> None:
    assert main(["health", "--address", server.address]) == 0


def test_generate_ends_or_switches_on_a_feature_and_says_where(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "Hello", "--raw", "--max-new-tokens", "9", "--address", server.address]
    assert main([*words, "--add", "late:3=4", "--when", "late:3=-1", "--flag-on", "late:3=-1"]) == 0
    flagged = capsys.readouterr().err
    assert main([*words, "--stop-on", "late:3=-1"]) == 0
    stopped = capsys.readouterr()
    assert main([*words, "--switch-on", "late:3=-1:loud"]) == 0
    switched = capsys.readouterr().err

    # The first token fires nothing.
    assert "fired: late:3 at position 1" in flagged
    assert "length:" in flagged
    assert "fired: late:3 at position 1" in stopped.err
    assert "feature: 5 prompt tokens, 0 " in stopped.err
    assert stopped.out.strip() == ""
    assert "fired: late:3 at position 1" in switched
    (added,) = [line for line in switched.splitlines() if "add late:3=4" in line]
    assert "8" in added.split(), "of the 9 tokens, all but the last were steered"
