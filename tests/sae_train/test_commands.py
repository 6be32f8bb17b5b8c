"""The whole promise on a tiny host: one command from corpus files to an SAE folder, and the other two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sae_train.__main__ import main
from sae_train.activations.activation_cache import ActivationCache, open_shard
from sae_train.activations.harvest import open_cache
from sae_train.config import load_config
from sae_train.export.export import ExportError, check_reload
from sae_train.training.trainer import Trainer
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import load_sae
from tests.tiny_hosts import make_tiny_host

CONFIG = """
output = "{folder}/run"

[host]
name = "{folder}/host"

[sae]
hook_point = "blocks.1.hook_resid_post"
d_sae = 64
k = 4
weights_dtype = "bfloat16"

[data]
cache = "{folder}/cache"
tokens = 6000
held_out_tokens = 1500
held_out_share = 0.2
context = 64
shard_blocks = 16

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
    bundle = load_sae(folder / "run" / "sae")

    assert bundle.metadata.architecture == "jumprelu"
    assert bundle.metadata.weights_dtype == "bfloat16"
    assert bundle.metadata.hook_point == "blocks.1.hook_resid_post"
    assert bundle.statistics is not None
    assert bundle.notes is not None
    assert len(bundle.notes) == 64


def test_the_record_says_what_was_done(folder: Path) -> None:
    record = json.loads((folder / "run" / "sae" / "steerd.json").read_text())

    assert record["recipe"]["sae"]["k"] == 4
    assert record["recipe"]["data"]["sources"][0]["path"] == "chat.jsonl"
    assert str(folder / "cache") not in json.dumps(record)
    assert set(record["data"]["tokens_by_source"]) == {"talk", "novel 0", "novel 1"}
    assert record["data"]["distinct_tokens"] >= 6000
    assert record["training"]["tokens"] == 25600
    metrics = record["metrics"]
    assert metrics["l0_mean"] == pytest.approx(4, rel=0.02)
    assert 0 < metrics["variance_explained"] < 1
    assert metrics["cross_entropy_zero_ablated"] > metrics["cross_entropy_spliced"] > 0
    assert record["licence"] == "public domain"


def test_statistics_and_notes_are_those_of_the_stored_weights(folder: Path) -> None:
    bundle = load_sae(folder / "run" / "sae")
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
    cache = open_cache(config, host)
    shard = open_shard(cache.shard_paths("held_out")[0])

    assert shard.resid.shape[1] == host.d_model
    assert set(shard.sources) <= {"talk", "novel 0", "novel 1"}


def test_evaluate_gives_the_recorded_metrics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = json.loads((folder / "run" / "sae" / "steerd.json").read_text())["metrics"]
    capsys.readouterr()

    assert main(["evaluate", str(folder / "run" / "sae"), str(folder / "train.toml")]) == 0

    output = capsys.readouterr().out
    measured = json.loads(output[output.index("\n{") if not output.startswith("{") else 0 :])
    for name in ("l0_mean", "variance_explained", "cross_entropy_recovered", "mse"):
        assert measured[name] == pytest.approx(recorded[name], rel=1e-4), name


def test_export_writes_the_same_weights_again(folder: Path) -> None:
    weights = folder / "run" / "sae" / "sae_weights.safetensors"
    before = weights.read_bytes()

    assert main(["export", str(folder / "run")]) == 0

    assert weights.read_bytes() == before


def test_export_refuses_weights_that_compute_something_else(folder: Path) -> None:
    config = load_config(folder / "train.toml")
    cache = ActivationCache(Path(config.data.cache), {})
    trained = Trainer(config, cache, folder / "run").result()
    exact = trained.sae.to_inference(trained.scale.scale, 0.0)
    served = load_sae(folder / "run" / "sae").sae
    sample = open_shard(cache.shard_paths("held_out")[0]).read(torch.arange(1, 60).numpy())
    check_reload(served, served, exact, trained, sample)
    trained.sae.b_enc.data += 1

    with pytest.raises(ExportError, match="the folded weights"):
        check_reload(served, served, exact, trained, sample)
    with pytest.raises(ExportError, match="the reloaded file"):
        check_reload(exact.to(dtype=torch.float32), served, exact, trained, sample)


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
