"""A run shared by two processes, and a run whose activations pass by live: the same promise, other ways."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_train import pipeline
from tests.tiny_hosts import make_tiny_host

CONFIG = """
output = "{folder}/{name}"
[host]
name = "{folder}/host"
[[saes]]
name = "first"
hook_point = "blocks.0.hook_resid_post"
d_sae = 64
k = 4
[[saes]]
name = "second"
hook_point = "blocks.1.hook_resid_post"
architecture = "jumprelu"
d_sae = 64
target_l0 = 6
[data]
cache = "{folder}/{name}-cache"
tokens = 5000
{cached}
held_out_tokens = 800
held_out_share = 0.2
context = 64
shard_tokens = 1000
[[data.sources]]
path = "{folder}/text.jsonl"
mode = "block"
[training]
tokens = 12800
batch_size = 128
buffer_rows = 1500
checkpoint_every = 30
[evaluation]
cross_entropy_tokens = 200
statistics_tokens = 1000
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a host and a corpus."""
    folder = tmp_path_factory.mktemp("many")
    host = make_tiny_host("llama")
    host.model.save_pretrained(folder / "host")
    host.tokenizer.save_pretrained(folder / "host")
    words = ["red", "green", "blue", "seven", "eleven", "house", "river"]
    texts = [f"{words[i % 7]} {words[i % 5]} and {words[(i * 3) % 7]} number {i}. " * 3 for i in range(200)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


def write_config(folder: Path, name: str, cached: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(CONFIG.format(folder=folder, name=name, cached=cached))
    return path


def exported(folder: Path, name: str) -> dict[str, dict[str, torch.Tensor]]:
    saes = folder / name / "saes"
    return {path.name: load_file(path / "sae_weights.safetensors") for path in sorted(saes.iterdir())}


def test_two_processes_export_the_same_saes_as_one(folder: Path) -> None:
    pipeline.run(write_config(folder, "alone"))
    shared = write_config(folder, "shared")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    subprocess.run(
        [*command, "-m", "sae_train", "run", str(shared)], check=True, env=environment, timeout=300
    )

    for name, tensors in exported(folder, "alone").items():
        for key, tensor in tensors.items():
            found = exported(folder, "shared")[name][key]
            torch.testing.assert_close(found, tensor, rtol=1e-2, atol=1e-3)
    log = (folder / "shared" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log].count("harvest") == 2  # one process speaks


def test_a_run_that_sees_most_of_its_tokens_live_resumes_to_the_same_bits(folder: Path) -> None:
    config = write_config(folder, "live", "cached_tokens = 1500")
    pipeline.run(config)
    whole = exported(folder, "live")
    checkpoints = sorted((folder / "live" / "checkpoints").iterdir())
    shutil.rmtree(checkpoints[-1])  # as if the run had been cut off before its end

    pipeline.run(config)

    assert checkpoints[0].name == "step-00000090"
    for sae, tensors in exported(folder, "live").items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, whole[sae][key]), f"{sae} {key}"
