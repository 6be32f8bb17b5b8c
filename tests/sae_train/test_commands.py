"""The whole promise on a tiny host: one command from corpus files to an SAE folder, and the other two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sae_train.__main__ import main
from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.run_corpus import open_cache
from sae_train.activations.shard import open_shard
from sae_train.activations.training_data import TrainingData
from sae_train.config_file import load_config
from sae_train.export.served_form import ExportError, check_reload
from sae_train.training.run_setup import start_training
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import load_sae
from tests.tiny_hosts import make_tiny_host

CONFIG = """
output = "{folder}/run"

[host]
name = "{folder}/host"

[[saes]]
name = "small"
hook_point = "blocks.1.hook_resid_post"
d_sae = 64
k = 4
weights_dtype = "bfloat16"

[[saes]]
name = "gate"
hook_point = "blocks.0.hook_resid_post"
architecture = "gated"
d_sae = 48
l1_coefficient = 1.0

[data]
cache = "{folder}/cache"
tokens = 6000
held_out_tokens = 1500
held_out_share = 0.2
context = 64
shard_tokens = 1000

[[data.sources]]
path = "{folder}/chat.jsonl"
mode = "fast"
share = 0.5

[[data.sources]]
path = "{folder}/text.jsonl"
mode = "block"
share = 0.5

[training]
tokens = 25600
batch_size = 256
buffer_rows = 2000
dead_window_tokens = 2000

[evaluation]
cross_entropy_tokens = 500
statistics_tokens = 4000
every = 40
every_tokens = 500

[export]
licence = "public domain"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a host, a corpus and a finished run."""
    folder = tmp_path_factory.mktemp("training")
    host = make_tiny_host("llama")
    host.model.save_pretrained(folder / "host")
    host.tokenizer.save_pretrained(folder / "host")
    words = ["red", "green", "blue", "seven", "eleven", "house", "river"]
    texts = [f"{words[i % 7]} {words[i % 5]} and {words[(i * 3) % 7]} number {i}. " * 3 for i in range(150)]
    chats = [
        {
            "messages": [{"role": "user", "content": text[:30]}, {"role": "assistant", "content": "yes"}],
            "source": "talk",
        }
        for text in texts
    ]
    lines = [json.dumps({"text": text, "source": f"novel {i % 2}"}) for i, text in enumerate(texts)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (folder / "train.toml").write_text(CONFIG.format(folder=folder))
    assert main(["run", str(folder / "train.toml")]) == 0
    return folder


def test_run_writes_a_folder_that_the_server_loads(folder: Path) -> None:
    bundle = load_sae(folder / "run" / "saes" / "small")

    assert bundle.metadata.architecture == "jumprelu"
    assert bundle.metadata.weights_dtype == "bfloat16"
    assert bundle.metadata.hook_point == "blocks.1.hook_resid_post"
    assert bundle.statistics is not None
    assert bundle.notes is not None
    assert len(bundle.notes) == 64
    tested = [score for note in bundle.notes for score in note.scores]
    assert len(tested) > 20
    assert {score.method for score in tested} == {"tokens"}


def test_the_record_says_what_was_done(folder: Path) -> None:
    record = json.loads((folder / "run" / "saes" / "small" / "steerd.json").read_text())

    assert record["recipe"]["sae"]["k"] == 4
    assert record["recipe"]["data"]["sources"][0]["path"] == "chat.jsonl"
    assert str(folder / "cache") not in json.dumps(record)
    assert set(record["data"]["cached_tokens_by_source"]) == {"talk", "novel 0", "novel 1"}
    assert record["data"]["distinct_tokens"] >= 6000
    assert record["training"]["tokens"] == 25600
    metrics = record["metrics"]
    assert metrics["calibration_l0_seen"] == pytest.approx(4, rel=0.02)
    assert metrics["l0_mean"] == pytest.approx(4, rel=0.1)
    assert 0 < metrics["variance_explained"] < 1
    assert metrics["cross_entropy_zero_ablated"] > metrics["cross_entropy_spliced"] > 0
    assert record["licence"] == "public domain"


def test_each_sae_of_the_run_is_exported_and_measured_on_the_way(folder: Path) -> None:
    gate = load_sae(folder / "run" / "saes" / "gate")
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    measured = [record for record in map(json.loads, lines) if record["event"] == "evaluation"]

    assert gate.metadata.architecture == "jumprelu"
    assert gate.metadata.hook_point == "blocks.0.hook_resid_post"
    assert gate.metadata.provenance["training_architecture"] == "gated"
    assert [(record["sae"], record["step"]) for record in measured if record["step"] < 100] == [
        (name, step) for step in (40, 80) for name in ("small", "gate")
    ]


def test_statistics_and_notes_are_those_of_the_stored_weights(folder: Path) -> None:
    bundle = load_sae(folder / "run" / "saes" / "small")
    assert bundle.statistics is not None
    assert bundle.notes is not None
    statistics = bundle.statistics

    assert bool((statistics.dead == (statistics.density == 0)).all())
    for note in bundle.notes:
        if bool(statistics.dead[note.feature]):
            assert note.label == "dead"
            continue
        assert note.examples
        strongest = max(note.examples[0].values)
        assert strongest == pytest.approx(float(statistics.max_activation[note.feature]), rel=1e-2)
        assert note.label
        assert len(note.promoted_tokens) == 8


def test_the_cache_holds_the_hosts_own_activations(folder: Path) -> None:
    config = load_config(folder / "train.toml")
    host = HostModel.load(config.host.name)
    cache = open_cache(config.data, host, seed=config.seed)
    shard = open_shard(cache.shard_paths("held_out", config.hook_points)[0])
    ids = torch.from_numpy(shard.token_ids[: shard.starts[1]].astype("int64")).unsqueeze(0)
    expected = host.activations(ids, torch.ones_like(ids), config.hook_points)

    for point in config.hook_points:
        found = torch.from_numpy(shard.resid(point)[: shard.starts[1]].copy()).float()
        torch.testing.assert_close(found, expected[point][0], rtol=1e-3, atol=1e-3)
    assert set(shard.sources) <= {"talk", "novel 0", "novel 1"}


def test_evaluate_gives_the_recorded_metrics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = json.loads((folder / "run" / "saes" / "small" / "steerd.json").read_text())["metrics"]
    capsys.readouterr()

    assert main(["evaluate", str(folder / "run" / "saes" / "small"), str(folder / "train.toml")]) == 0

    output = capsys.readouterr().out
    measured = json.loads(output[output.index("\n{") if not output.startswith("{") else 0 :])
    for name in ("l0_mean", "variance_explained", "cross_entropy_recovered_from_zero", "mse"):
        assert measured[name] == pytest.approx(recorded[name], rel=1e-4), name


def test_the_log_counts_each_document_once_whether_it_is_harvested_or_found(folder: Path) -> None:
    assert main(["evaluate", str(folder / "run" / "saes" / "small"), str(folder / "train.toml")]) == 0

    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    harvests = [record for record in map(json.loads, lines) if record["event"] == "harvest"]
    config = load_config(folder / "train.toml")
    cache = ActivationCache(Path(config.data.cache), {})
    for split in ("train", "held_out"):
        records = [record for record in harvests if record["split"] == split]
        tokens = cache.kept_tokens(split, config.hook_points)
        assert {record["tokens"] for record in records} == {tokens}
        by_source = [record["corpus"]["sources"] for record in records]
        assert {sum(source["tokens"] for source in found.values()) for found in by_source} == {tokens}
        assert all(found == by_source[0] for found in by_source)
    assert len(harvests) > 2


def test_export_writes_the_same_weights_again(folder: Path) -> None:
    weights = folder / "run" / "saes" / "small" / "sae_weights.safetensors"
    before = weights.read_bytes()

    assert main(["export", str(folder / "run")]) == 0

    assert weights.read_bytes() == before


def test_export_refuses_weights_that_compute_something_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(folder / "train.toml")
    cache = ActivationCache(Path(config.data.cache), {})
    data = TrainingData(cache=cache, hook_points=config.hook_points, tokens=config.data.tokens)
    trainer = start_training(config, data, special_token_ids=frozenset(), device=torch.device("cpu"))
    trained = trainer.trained()[0]
    sae, scale = trained.sae, trained.scale.scale
    served = load_sae(folder / "run" / "saes" / "small").sae
    first = open_shard(cache.shard_paths("held_out", config.hook_points)[0])
    sample = first.read(trained.config.hook_point, torch.arange(1, 60).numpy())
    check_reload(served, served, sae, scale=scale, sample=sample)
    unlike = sae.to_inference(scale).to(dtype=torch.float32)

    with pytest.raises(ExportError, match="the reloaded file"):
        check_reload(unlike, served, sae, scale=scale, sample=sample)
    sae.b_enc.data += 1
    check_reload(served, served, sae, scale=scale, sample=sample)
    monkeypatch.setattr(sae, "to_inference", lambda _scale: unlike.to(dtype=torch.float64))
    with pytest.raises(ExportError, match="the folded weights"):
        check_reload(served, served, sae, scale=scale, sample=sample)


def test_a_mistake_is_one_sentence_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "absent.toml")]) == 1

    assert capsys.readouterr().err.startswith("sae-train: ")


def test_a_corpus_too_small_to_hold_any_document_out_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = folder / "small"
    small.mkdir()
    for name in ("chat", "text"):
        first_line = (folder / f"{name}.jsonl").read_text().splitlines()[0]
        (small / f"{name}.jsonl").write_text(first_line)
    config = (folder / "train.toml").read_text().replace(str(folder), str(small))
    config = config.replace(f"{small}/host", f"{folder}/host").replace("share = 0.2", "share = 0.0001")
    (small / "train.toml").write_text(config)

    assert main(["run", str(small / "train.toml")]) == 1

    assert "no held-out tokens" in capsys.readouterr().err


def test_export_of_an_unfinished_run_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = folder / "unfinished"
    other.mkdir()
    (other / "config.toml").write_text((folder / "train.toml").read_text())

    assert main(["export", str(other)]) == 1

    assert "not finished" in capsys.readouterr().err
