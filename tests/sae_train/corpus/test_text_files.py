from __future__ import annotations

import os
from pathlib import Path

import pytest
import zstandard

from sae_train.corpus.documents import CorpusError
from sae_train.corpus.text_files import open_text

# Compressible, and more than one read of the packed file.
CONTENT = b"".join(b"line %d %s\n" % (i, os.urandom(8).hex().encode()) for i in range(50_000))


def test_all_frames_of_a_packed_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "two.zst"
    half = len(CONTENT) // 2
    path.write_bytes(zstandard.compress(CONTENT[:half]) + zstandard.compress(CONTENT[half:]))

    with open_text(path) as file:
        assert list(file) == CONTENT.splitlines(keepends=True)


@pytest.mark.parametrize("cut_in", ["the last frame", "the only frame"])
def test_a_packed_file_that_was_cut_off_is_an_error(tmp_path: Path, cut_in: str) -> None:
    path = tmp_path / "cut.zst"
    packed = zstandard.compress(CONTENT)
    path.write_bytes((packed if cut_in == "the last frame" else b"") + packed[: len(packed) // 2])

    with (
        pytest.raises(CorpusError, match=r"cut\.zst: cut off: its last zstandard frame"),
        open_text(path) as file,
    ):
        file.read()


def test_a_packed_file_that_was_changed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zst"
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)

    with pytest.raises(CorpusError, match=r"damaged\.zst: damaged zstandard data"), open_text(path) as file:
        file.read()


def test_an_empty_packed_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.zst"
    path.write_bytes(zstandard.compress(b""))

    with open_text(path) as file:
        assert file.read() == b""
