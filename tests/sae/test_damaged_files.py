"""Whatever is wrong with an SAE folder is one precise SaeFileError, and never a crash."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerd.errors import SaeFileError
from steerd.sae.config_file import Architecture
from steerd.sae.sae_file import load_sae, save_sae
from tests.tiny_saes import bundle_of, random_sae

WEIGHTS = "sae_weights.safetensors"


def saved(tmp_path: Path, architecture: Architecture = "jumprelu") -> Path:
    folder = tmp_path / "sae"
    save_sae(folder, bundle_of(random_sae(architecture=architecture)))
    return folder


def edit_tensors(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)


def poison(name: str, index: tuple[int, ...], value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors[name].index_put_(tuple(map(torch.tensor, index)), torch.tensor(value))


TENSOR_CASES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda t: t.pop("b_dec"), "tensor b_dec is missing; expected ['W_dec', 'W_enc', 'b_dec'"),
    "missing threshold": (lambda t: t.pop("threshold"), "tensor threshold is missing"),
    "unexpected": (lambda t: t.update(scaling_factor=torch.ones(64)), "tensor scaling_factor is unexpected"),
    "transposed": (
        lambda t: t.update(W_enc=t["W_enc"].T.contiguous()),
        "tensor W_enc: expected shape (16, 64), found (64, 16)",
    ),
    "other d_sae": (
        lambda t: t.update(W_dec=t["W_dec"][:60].contiguous()),
        "tensor W_dec: expected shape (64, 16), found (60, 16)",
    ),
    "zero-size": (lambda t: t.update(b_enc=torch.zeros(0)), "tensor b_enc: expected shape (64,), found (0,)"),
    "scalar": (lambda t: t.update(threshold=torch.tensor(1.0)), "expected shape (64,), found ()"),
    "integers": (
        lambda t: t.update(W_enc=t["W_enc"].int()),
        "tensor W_enc: expected dtype F32 or BF16 or F16 or F64, found I32",
    ),
    "eight-bit floats": (lambda t: t.update(b_dec=t["b_dec"].to(torch.float8_e4m3fn)), "found F8_E4M3"),
    "nan": (
        poison("W_enc", (3, 5), float("nan")),
        "tensor W_enc: expected finite values, found nan at (3, 5)",
    ),
    "inf": (poison("b_enc", (63,), float("inf")), "tensor b_enc: expected finite values, found inf at (63,)"),
    "too large for float32": (
        lambda t: t.update(b_dec=torch.full((16,), 1e300, dtype=torch.float64)),
        "tensor b_dec, in plain form and float32: expected finite values, found inf at (0,)",
    ),
}


@pytest.mark.parametrize("case", TENSOR_CASES)
def test_wrong_tensors(tmp_path: Path, case: str):
    edit, message = TENSOR_CASES[case]
    folder = saved(tmp_path)
    edit_tensors(folder / WEIGHTS, edit)

    with pytest.raises(SaeFileError, match=re.escape(message)) as raised:
        load_sae(folder)

    assert str(folder / WEIGHTS) in str(raised.value)


@pytest.mark.parametrize("left", [0, 1, 7, 8, 9, 200, 1000, -1])
@pytest.mark.parametrize("name", [WEIGHTS, "features.safetensors"])
def test_a_file_cut_short_is_an_error_and_no_crash(tmp_path: Path, name: str, left: int):
    folder = saved(tmp_path)
    size = (folder / name).stat().st_size
    os.truncate(folder / name, left % size)

    with pytest.raises(SaeFileError, match=rf"{name}: is not a whole safetensors file"):
        load_sae(folder)


def test_a_file_cut_short_while_it_is_read_is_no_crash(tmp_path: Path):
    """A memory map would end the process here."""
    folder = saved(tmp_path)
    whole = (folder / WEIGHTS).read_bytes()
    stop = threading.Event()

    def keep_cutting() -> None:
        while not stop.is_set():
            os.truncate(folder / WEIGHTS, 700)
            (folder / WEIGHTS).write_bytes(whole)

    cutter = threading.Thread(target=keep_cutting)
    cutter.start()
    try:
        for _ in range(100):
            with contextlib.suppress(SaeFileError):
                load_sae(folder)
    finally:
        stop.set()
        cutter.join(timeout=60)
    assert not cutter.is_alive()


@pytest.mark.parametrize(
    "content",
    [b"\x80\x04pickle" * 20, struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2) + b"[]", b"\x00" * 64],
    ids=["pickle", "endless header", "header of a wrong type", "zeros"],
)
def test_garbage_in_place_of_the_weights(tmp_path: Path, content: bytes):
    folder = saved(tmp_path)
    (folder / WEIGHTS).write_bytes(content)

    with pytest.raises(SaeFileError, match=rf"{WEIGHTS}: is not a whole safetensors file"):
        load_sae(folder)


def test_a_header_that_promises_terabytes_costs_nothing(tmp_path: Path):
    folder = saved(tmp_path)
    header = json.dumps({"W_enc": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}}).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)

    with pytest.raises(SaeFileError, match="is missing"):
        load_sae(folder)


@pytest.mark.parametrize(
    "name", [WEIGHTS, "cfg.json", "features.safetensors", "features.jsonl", "steerd.json"]
)
def test_random_damage_is_an_error_or_another_sae(tmp_path: Path, name: str):
    """Changed bytes may leave a file that can be read; where not, only SaeFileError is raised."""
    folder = saved(tmp_path)
    whole = (folder / name).read_bytes()
    chance = random.Random(0)
    refused = []

    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(min(len(whole), 600))] = chance.randrange(256)
        (folder / name).write_bytes(damaged)
        try:
            load_sae(folder)
        except SaeFileError as error:
            refused.append(str(error))

    assert len(refused) > 20
    assert all(str(folder) in message for message in refused)


CONFIG_CASES: dict[str, tuple[dict[str, object], Architecture, str]] = {
    "unknown architecture": (
        {"architecture": "gated"},
        "standard",
        "architecture must be one of ('standard', 'jumprelu', 'topk'), found 'gated'",
    ),
    "mistyped architecture": ({"architecture": 3}, "standard", "architecture must be a string, found 3"),
    "width as text": ({"d_in": "16"}, "standard", "d_in must be an integer, found '16'"),
    "width as a truth": ({"d_in": True}, "standard", "d_in must be an integer, found True"),
    "no features": ({"d_sae": 0}, "standard", "d_sae must be at least 1, found 0"),
    "other d_sae": ({"d_sae": 65}, "standard", "tensor W_enc: expected shape (16, 65), found (16, 64)"),
    "other d_in": ({"d_in": 17}, "standard", "tensor W_enc: expected shape (17, 64), found (16, 64)"),
    "b_dec as a number": (
        {"apply_b_dec_to_input": 1},
        "standard",
        "apply_b_dec_to_input must be true or false, found 1",
    ),
    "normalised": (
        {"normalize_activations": "layer_norm"},
        "standard",
        "normalize_activations must be 'none', found 'layer_norm'",
    ),
    "reshaped": (
        {"reshape_activations": "hook_z"},
        "standard",
        "reshape_activations must be 'none', found 'hook_z'",
    ),
    "ranked by norm": (
        {"rescale_acts_by_decoder_norm": True},
        "jumprelu",
        "rescale_acts_by_decoder_norm is for topk only, found jumprelu",
    ),
    "k of zero": ({"k": 0}, "topk", "k must be at least 1, found 0"),
    "k too large": ({"k": 65}, "topk", "k must be at most d_sae = 64, found 65"),
    "metadata as a list": ({"metadata": []}, "standard", "metadata must be an object, found []"),
    "no hook": ({"metadata": {"model_name": "m"}}, "standard", "metadata: key 'hook_name' is missing"),
    "no host": (
        {"metadata": {"model_name": None, "hook_name": "h"}},
        "standard",
        "metadata: model_name must be a string, found None",
    ),
}


@pytest.mark.parametrize("case", CONFIG_CASES)
def test_wrong_config(tmp_path: Path, case: str):
    changes, architecture, message = CONFIG_CASES[case]
    folder = saved(tmp_path, architecture)
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    with pytest.raises(SaeFileError, match=re.escape(message)) as raised:
        load_sae(folder)

    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("key", ["architecture", "d_in", "d_sae", "apply_b_dec_to_input", "metadata", "k"])
def test_config_without_a_key(tmp_path: Path, key: str):
    folder = saved(tmp_path, "topk")
    path = folder / "cfg.json"
    record = json.loads(path.read_text())
    del record[key]
    path.write_text(json.dumps(record))

    with pytest.raises(SaeFileError, match=rf"cfg\.json: key '{key}' is missing"):
        load_sae(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"d_in": 16', "is not JSON"),
        (b"[1, 2]", "must hold a JSON object, found [1, 2]"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'{"d_in": NaN}', "is not JSON: NaN is not a finite number"),
        (b'{"d_in": 1e999}', "is not JSON: 1e999 is not a finite number"),
        (b'{"model": "\\ud800"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"d_in": ' + b"9" * 10_000 + b"}", "is not JSON"),
    ],
    ids=["empty", "cut", "list", "bytes", "nan", "infinite", "half a character", "deep", "long number"],
)
@pytest.mark.parametrize("name", ["cfg.json", "steerd.json"])
def test_json_that_is_none(tmp_path: Path, name: str, content: bytes, message: str):
    folder = saved(tmp_path)
    (folder / name).write_bytes(content)

    with pytest.raises(SaeFileError, match=re.escape(f"{name}: {message}")) as raised:
        load_sae(folder)

    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("version", [None, 2, "1"])
def test_a_newer_format_is_refused(tmp_path: Path, version: object):
    folder = saved(tmp_path)
    (folder / "steerd.json").write_text(json.dumps({"format_version": version}))

    with pytest.raises(SaeFileError, match=rf"format_version must be 1, found {version!r}"):
        load_sae(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("dead"), "tensor dead is missing"),
        (lambda t: t.update(density=torch.zeros(63)), "tensor density: expected shape (64,), found (63,)"),
        (lambda t: t.update(dead=torch.zeros(64)), "tensor dead: expected dtype BOOL, found F32"),
        (lambda t: t.update(density=torch.full((64,), torch.nan)), "tensor density: expected finite values"),
    ],
)
def test_wrong_statistics(tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], message: str):
    folder = saved(tmp_path)
    edit_tensors(folder / "features.safetensors", edit)

    with pytest.raises(SaeFileError, match=re.escape(f"features.safetensors: {message}")):
        load_sae(folder)


NOTE = {"feature": 2, "label": "l", "top_tokens": [], "promoted_tokens": [], "examples": []}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: is not JSON"),
        ("", "line 3: is not JSON"),
        ("[]", "line 3: must hold a JSON object, found []"),
        (json.dumps(NOTE | {"feature": 3}), "line 3: expected feature 2, found 3"),
        (json.dumps({k: v for k, v in NOTE.items() if k != "label"}), "line 3: key 'label' is missing"),
        (json.dumps(NOTE | {"label": None}), "line 3: label must be a string, found None"),
        (json.dumps(NOTE | {"top_tokens": "a"}), "line 3: top_tokens must be a list, found 'a'"),
        (json.dumps(NOTE | {"top_tokens": ["a", 1]}), "line 3: top_tokens[1] must be a string, found 1"),
        (json.dumps(NOTE | {"examples": [1]}), "line 3: examples[0] must be an object, found 1"),
        (
            json.dumps(NOTE | {"examples": [{"tokens": ["a"], "values": []}]}),
            "line 3: an example has 1 tokens and 0 values",
        ),
        (
            json.dumps(NOTE | {"examples": [{"tokens": ["a"], "values": ["1"]}]}),
            "line 3: values[0] must be a number, found '1'",
        ),
        (
            json.dumps(NOTE | {"sampled": [{"tokens": [], "values": [], "percentile": "9"}]}),
            "line 3: percentile must be a number, found '9'",
        ),
        (
            json.dumps(NOTE | {"scores": [{"method": "guess", "value": 0.5, "contexts": 9}]}),
            "line 3: a score's method must be one of tokens, detection, fuzzing, rubric, found 'guess'",
        ),
        (
            json.dumps(NOTE | {"scores": [{"method": "tokens", "value": 1.5, "contexts": 9}]}),
            "line 3: value of a score must be from 0 to 1, found 1.5",
        ),
        (
            json.dumps(NOTE | {"scores": [{"method": "tokens", "value": 0.5, "contexts": -1}]}),
            "line 3: contexts must be at least 0, found -1",
        ),
        (json.dumps(NOTE | {"written": {"text": "a"}}), "line 3: key 'by' is missing"),
    ],
)
def test_wrong_notes(tmp_path: Path, line: str, message: str):
    folder = saved(tmp_path)
    path = folder / "features.jsonl"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]))

    with pytest.raises(SaeFileError, match=re.escape(f"features.jsonl {message}")):
        load_sae(folder)


def test_too_few_notes(tmp_path: Path):
    folder = saved(tmp_path)
    path = folder / "features.jsonl"
    path.write_text("\n".join(path.read_text().split("\n")[:40]))

    with pytest.raises(SaeFileError, match=r"features\.jsonl: expected 64 lines, one a feature, found 40"):
        load_sae(folder)


@pytest.mark.parametrize("name", ["cfg.json", WEIGHTS])
def test_a_missing_file(tmp_path: Path, name: str):
    folder = saved(tmp_path)
    (folder / name).unlink()

    with pytest.raises(SaeFileError, match=rf"sae: {name} is missing; found \["):
        load_sae(folder)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["config.json", "ae.pt"], "cfg.json"),
        (["params.npz"], "cfg.json"),
        (["cfg.json", "sae.safetensors"], "sae_weights.safetensors"),
    ],
)
def test_another_tools_folder_is_sent_to_the_importer(tmp_path: Path, names: list[str], missing: str):
    whole = saved(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for name in names:
        (other / name).write_bytes((whole / "cfg.json").read_bytes() if name == "cfg.json" else b"")

    with pytest.raises(SaeFileError, match=rf"{missing} is missing; found \[.*\]; `sae-train import` turns"):
        load_sae(other)


@pytest.mark.parametrize("flat", [False, True])
def test_a_form_of_saelens_that_is_not_served_is_sent_to_the_importer(tmp_path: Path, flat: bool):
    path = saved(tmp_path) / "cfg.json"
    record = json.loads(path.read_text())
    metadata = record.pop("metadata") if flat else {}
    path.write_text(json.dumps(record | metadata | ({} if flat else {"architecture": "gated"})))

    with pytest.raises(SaeFileError, match=r"; `sae-train import` turns other tools' and older files into"):
        load_sae(path.parent)


def test_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(SaeFileError, match="nowhere: expected an SAE folder: No such file or directory"):
        load_sae(tmp_path / "nowhere")
    with pytest.raises(SaeFileError, match="file: expected an SAE folder, found a file"):
        load_sae(tmp_path / "file")


@pytest.mark.parametrize("name", [WEIGHTS, "cfg.json", "features.jsonl", "README.md"])
def test_a_link_out_of_the_folder(tmp_path: Path, name: str):
    folder = saved(tmp_path)
    outside = tmp_path / "outside"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("")
    (folder / name).symlink_to("../outside")

    with pytest.raises(SaeFileError, match=rf"{name}: is a link that leads out of the folder, to .*outside"):
        load_sae(folder)


def test_a_link_within_the_folder_is_followed(tmp_path: Path):
    """Kubernetes mounts a volume's files as links beside a folder that holds them."""
    folder = saved(tmp_path)
    (folder / "..data").mkdir()
    (folder / WEIGHTS).rename(folder / "..data" / WEIGHTS)
    (folder / WEIGHTS).symlink_to(f"..data/{WEIGHTS}")

    assert load_sae(folder).sae.d_sae == 64


def test_a_folder_that_is_itself_a_link_is_followed(tmp_path: Path):
    folder = saved(tmp_path)
    (tmp_path / "link").symlink_to(folder)

    assert load_sae(tmp_path / "link").sae.d_sae == 64


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("cfg.json", path)])
def test_what_is_not_a_regular_file_is_not_opened(tmp_path: Path, make: Callable[[Path], object]):
    """A pipe would be waited on for ever; the third case is a link to itself."""
    folder = saved(tmp_path)
    (folder / "cfg.json").unlink()
    make(folder / "cfg.json")

    with pytest.raises(SaeFileError, match=r"cfg\.json: expected a regular file"):
        load_sae(folder)
