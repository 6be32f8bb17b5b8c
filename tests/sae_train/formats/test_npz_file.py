"""An `.npz` file gives arrays of numbers, or one SaeFileError; never a pickle, never more than it holds."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_train.formats.npz_file import open_npz
from steerd.errors import SaeFileError


def refused(path: Path) -> str:
    with pytest.raises(SaeFileError) as raised:
        open_npz(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An array file around any header."""
    text = header.encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


def archive_of(path: Path, *, compress: bool = False, **arrays: bytes) -> Path:
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_every_float_and_order(tmp_path: Path, save: object):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    forms = {
        "row": values,
        "column": np.asfortranarray(values),
        "half": values.astype(np.float16),
        "double": values.astype(np.float64),
        "big_endian": values.astype(">f4"),
    }
    save(tmp_path / "params.npz", **forms)

    stored = open_npz(tmp_path / "params.npz")

    assert stored.names == set(forms)
    for name in forms:
        assert torch.equal(stored.take(name, (3, 4)), torch.arange(12.0, dtype=torch.float64).reshape(3, 4))


def test_objects_are_never_unpickled(tmp_path: Path):
    made = tmp_path / "made"

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(made),)

    np.savez(tmp_path / "params.npz", W_enc=np.array([Harm()], dtype=object))

    assert "W_enc.npy: expected floating-point numbers, found dtype obj" in refused(tmp_path / "params.npz")
    assert not made.exists()

    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }"
    content = pickle.dumps(Harm())
    archive_of(tmp_path / "params.npz", W_enc=npy(header, content))
    refused(tmp_path / "params.npz")
    assert not made.exists()


@pytest.mark.parametrize("dtype", ["<c8", "|S4", "<U3", "<M8[s]", "|V2", "|b1", "|u1"])
def test_other_kinds_of_arrays(tmp_path: Path, dtype: str):
    np.savez(tmp_path / "params.npz", W_enc=np.zeros(3, dtype=dtype))

    assert "W_enc.npy: expected floating-point numbers" in refused(tmp_path / "params.npz")


def test_integers_are_no_weights(tmp_path: Path):
    np.savez(tmp_path / "params.npz", W_enc=np.zeros(3, dtype=np.int64))

    with pytest.raises(SaeFileError, match=r"tensor W_enc: expected dtype F32 or .*, found I64"):
        open_npz(tmp_path / "params.npz").take("W_enc", (3,))


def test_a_bomb_of_zeros(tmp_path: Path):
    np.savez_compressed(tmp_path / "params.npz", W_enc=np.zeros((1000, 1000), dtype=np.float32))

    assert "bytes of arrays, found 4000128" in refused(tmp_path / "params.npz")


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", b"", "expected 4398046511"),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
            bytes(12),
            "for shape (2,), found",
        ),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", b"", "for shape (-2,)"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': 'x', }", b"", "is not an array"),
        ("__import__('os').getcwd()", b"", "is not an array"),
        ("{" * 3000, b"", "is not an array: "),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: str, data: bytes, reason: str):
    path = archive_of(tmp_path / "params.npz", W_enc=npy(header, data))

    assert reason in refused(path)


def test_an_unknown_version(tmp_path: Path):
    path = archive_of(tmp_path / "params.npz", W_enc=npy("{}", version=b"\x09\x00"))

    assert "is not an array" in refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice(tmp_path: Path):
    np.savez(tmp_path / "params.npz", W_enc=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "params.npz", "a") as archive:
        archive.writestr("W_enc.npy", b"")

    assert "array W_enc.npy is there 2 times" in refused(tmp_path / "params.npz")


def test_a_file_that_is_no_array(tmp_path: Path):
    path = archive_of(tmp_path / "params.npz", W_enc=b"plain text")

    assert "array W_enc.npy: is not an array" in refused(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short(tmp_path: Path, share: float):
    path = tmp_path / "params.npz"
    np.savez(path, W_enc=np.zeros(1000))
    os.truncate(path, int(share * path.stat().st_size))

    assert "is not a whole npz file" in refused(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_random_damage_is_an_error_or_other_numbers(tmp_path: Path, save: object):
    path, buffer, chance = tmp_path / "params.npz", io.BytesIO(), random.Random(0)
    save(buffer, W_enc=np.linspace(0, 1, 20).reshape(4, 5), b_enc=np.linspace(1, 2, 5))
    whole, messages = buffer.getvalue(), []

    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(whole))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            stored = open_npz(path)
            stored.expect(("W_enc", "b_enc"))
            stored.take("W_enc", (4, 5))
        except SaeFileError as error:
            messages.append(str(error))

    assert len(messages) > 50
    assert all(str(path) in message for message in messages)
