"""A `.pt` file gives tensors and plain values, or one SaeFileError; it never runs anything."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_train.formats.import_sae import import_sae
from sae_train.formats.layout import ImportOptions
from sae_train.formats.torch_file import open_torch_file
from steerd.errors import SaeFileError
from tests.sae_train.formats.layout_files import dl_auto_encoder


class Call:
    """Pickles as a call of the function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.arguments


def with_pickle(path: Path, content: bytes, **records: bytes) -> Path:
    """An archive in torch.save's form around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for name, record in records.items():
            archive.writestr(f"archive/data/{name}", record)
    return path


def refused(path: Path) -> str:
    with pytest.raises(SaeFileError) as raised:
        open_torch_file(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.mkdir, exec, eval], ids=lambda function: function.__name__)
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, function: Callable[..., Any], protocol: int
):
    made = tmp_path / "made"
    argument = str(made) if function is os.mkdir else f"__import__('os').mkdir({str(made)!r})"
    state = {"bias": torch.zeros(2).tolist(), "harm": Call(function, argument)}
    path = with_pickle(tmp_path / "ae.pt", pickle.dumps(state, protocol=protocol))

    message = refused(path)

    assert not made.exists()
    assert "data.pkl" in message
    pickle.loads(pickle.dumps(state["harm"], protocol=protocol))  # it would have
    assert made.exists()


def test_the_import_command_refuses_it_too(tmp_path: Path):
    place, made = dl_auto_encoder(tmp_path / "source").path, tmp_path / "made"
    torch.save({"bias": Call(os.mkdir, str(made))}, place / "ae.pt")

    with pytest.raises(SaeFileError, match=r"ae\.pt: data\.pkl asks for .*mkdir; only tensors, plain values"):
        import_sae(place, tmp_path / "out", ImportOptions())

    assert not made.exists()


@pytest.mark.parametrize(
    "harm",
    [
        Call(torch.load, "other.pt"),
        Call(torch.hub.load, "a/b", "c"),
        Call(torch.storage._load_from_bytes, b""),
        torch.nn.ReLU(),
        torch.zeros(2).to_sparse(),
        torch.zeros(2, device="meta"),
    ],
    ids=["load", "hub", "bytes", "module", "sparse", "meta"],
)
def test_only_dense_tensors_and_plain_values_are_read(tmp_path: Path, harm: object):
    path = tmp_path / "ae.pt"
    torch.save({"bias": harm}, path)

    assert "data.pkl asks for" in refused(path)


def test_tensors_parameters_and_values_are_read(tmp_path: Path):
    path = tmp_path / "ae.pt"
    whole = torch.arange(12.0).reshape(3, 4)
    state = OrderedDict(a=torch.nn.Parameter(whole), t=whole.T, half=whole.bfloat16(), k=torch.tensor(7))
    torch.save({**state, "activation": "ReLU", "activation_state_dict": {"k": 3}}, path)

    stored = open_torch_file(path)

    assert stored.names == {"a", "t", "half", "k"}
    assert torch.equal(stored.take("t", (4, 3)), whole.T.double())
    assert torch.equal(stored.take("half", (3, 4)), whole.bfloat16().double())
    assert not stored.take("a", (3, 4)).requires_grad
    assert stored.whole_number("k") == 7
    assert stored.values == {"activation": "ReLU", "activation_state_dict": {"k": 3}}


@pytest.mark.parametrize("value", [torch.zeros(3), [torch.zeros(3)], {1: torch.zeros(3)}])
def test_what_is_no_state_dict(tmp_path: Path, value: object):
    torch.save(value, tmp_path / "ae.pt")

    assert "expected a state dict" in refused(tmp_path / "ae.pt")


def test_a_tensor_larger_than_what_is_stored(tmp_path: Path):
    """Two numbers on disk, four tebibytes in memory once copied."""
    torch.save({"W_enc": torch.zeros(2).as_strided((2**20, 2**20), (0, 0))}, tmp_path / "ae.pt")

    assert "W_enc: expected at most the 8 bytes stored, found 4398046511104" in refused(tmp_path / "ae.pt")


def test_compressed_records_are_no_work_of_torch(tmp_path: Path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "ae.pt")
    with (
        zipfile.ZipFile(tmp_path / "ae.pt") as archive,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in archive.infolist():
            bomb.writestr(entry.filename, archive.read(entry))

    assert "is compressed, which torch.save never does" in refused(tmp_path / "bomb.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_is_there_twice(tmp_path: Path):
    path = with_pickle(tmp_path / "ae.pt", pickle.dumps({}, protocol=2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))

    assert "record archive/data.pkl is there 2 times" in refused(path)


def test_records_that_overlap(tmp_path: Path):
    """Many entries of the directory can name the same bytes."""
    path = with_pickle(tmp_path / "ae.pt", pickle.dumps({}, protocol=2), zero=bytes(4000))
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
        entries = content[directory : content.rindex(b"PK\x05\x06")]
    last = entries[entries.rindex(b"PK\x01\x02") :]
    copies = b"".join(last.replace(b"data/zero", b"data/%04d" % i) for i in range(3))
    end = bytearray(content[content.rindex(b"PK\x05\x06") :])
    end[8:12] = (7).to_bytes(2, "little") * 2
    end[12:16] = (len(entries) + len(copies)).to_bytes(4, "little")
    path.write_bytes(content[:directory] + entries + copies + bytes(end))

    assert "expected records of at most" in refused(path)


def test_a_pickle_of_unlikely_size(tmp_path: Path):
    path = with_pickle(tmp_path / "ae.pt", pickle.dumps({"a": bytes(2**20)}, protocol=2))

    assert "data.pkl must have at most 1048576 bytes" in refused(path)


def test_archives_of_other_kinds(tmp_path: Path):
    script = tmp_path / "script.pt"
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/constants.pkl", b"")
    assert "expected one pickle, data.pkl, in the archive, found" in refused(script)

    torch.save({"a": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "is not a whole archive of torch.save (since torch 1.6)" in refused(tmp_path / "old.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short(tmp_path: Path, share: float):
    path = tmp_path / "ae.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    os.truncate(path, int(share * path.stat().st_size))

    assert "is not a whole archive of torch.save" in refused(path)


def test_a_pickle_that_is_none(tmp_path: Path):
    assert "data.pkl is not a pickle" in refused(with_pickle(tmp_path / "ae.pt", b"\xff\x00 nonsense"))


def test_random_damage_is_an_error_or_another_file(tmp_path: Path):
    """Changed bytes may leave a file that can be read; where not, only SaeFileError is raised."""
    path, buffer, chance = tmp_path / "ae.pt", io.BytesIO(), random.Random(0)
    torch.save({"a": torch.zeros(4), "k": torch.tensor(3), "activation": "ReLU"}, buffer)
    whole, messages = buffer.getvalue(), []

    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(whole))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            open_torch_file(path)
        except SaeFileError as error:
            messages.append(str(error))

    assert len(messages) > 50
    assert all(str(path) in message for message in messages)
