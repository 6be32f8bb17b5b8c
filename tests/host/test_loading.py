from __future__ import annotations

import json

import pytest
import torch

from steerd.errors import HostError
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from tests.tiny_hosts import make_tiny_host

INPUT_IDS = torch.tensor([list(b"from disk")])


@pytest.fixture
def folder(tmp_path):
    host = make_tiny_host("llama")
    host.model.save_pretrained(tmp_path)
    host.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_local_folder_is_loaded_as_it_was_saved(folder, tiny_host):
    loaded = HostModel.load(str(folder))
    point = HookPoint(2, "resid_post")

    assert loaded.name == str(folder)
    assert loaded.special_token_ids == tiny_host.special_token_ids
    assert torch.equal(
        loaded.activations(INPUT_IDS, None, [point])[point],
        tiny_host.activations(INPUT_IDS, None, [point])[point],
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_is_chosen_by_name(folder, dtype):
    assert str(HostModel.load(str(folder), dtype=dtype).dtype) == f"torch.{dtype}"


def test_loading_is_silent(folder, capfd):
    HostModel.load(str(folder))

    assert capfd.readouterr() == ("", "")


def test_the_hash_follows_weights_and_config_on_disk(folder):
    first = HostModel.load(str(folder)).content_hash
    assert HostModel.load(str(folder)).content_hash == first

    make_tiny_host("llama", seed=1).model.save_pretrained(folder)

    assert HostModel.load(str(folder)).content_hash != first


def test_a_head_in_8_bits_makes_another_host(folder):
    plain, small = HostModel.load(str(folder)), HostModel.load(str(folder), weights="int8_head")

    expected, got = (host.model(INPUT_IDS, use_cache=False).logits for host in (plain, small))

    assert 0 < (got - expected).norm() < 0.02 * expected.norm()
    assert small.content_hash != plain.content_hash
    assert HostModel.load(str(folder), weights="int8_head").content_hash == small.content_hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"dtype": "bfloat16", "weights": "int8_head"},
            "8-bit weights are for float32 on a CPU; this host is bfloat16",
        ),
        ({"dtype": "int8"}, "dtype 'int8' is not one of float32, bfloat16, float16"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_a_bad_choice_is_refused_by_name(folder, arguments, message):
    with pytest.raises(HostError, match=message):
        HostModel.load(str(folder), **arguments)


@pytest.mark.parametrize(
    "name", ["./no/such/folder", "/no/such/folder", "no-such-alias", "nobody/no-such-model"]
)
def test_a_name_that_leads_nowhere_is_refused(name):
    with pytest.raises(HostError, match=name):
        HostModel.load(name)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(HostError, match="cannot be loaded"):
        HostModel.load(str(tmp_path))


def test_truncated_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(HostError, match="cannot be loaded"):
        HostModel.load(str(folder))


def test_code_in_a_model_folder_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()")

    with pytest.raises(HostError, match="cannot be loaded"):
        HostModel.load(str(folder))
    assert not (folder / "ran").exists()
