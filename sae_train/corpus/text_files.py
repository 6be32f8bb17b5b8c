"""The lines of local text files, plain or packed with zstandard, read as a stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from sae_train.corpus.documents import CorpusError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK_BYTES = 1 << 15


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, unpacked when its name ends in .zst.

    What goes wrong inside the block, a damaged or cut-off file for instance, becomes a CorpusError that names
    the file.
    """
    try:
        with path.open("rb") as raw:
            yield io.BufferedReader(_UnpackedFrames(raw, path)) if path.name.endswith(".zst") else raw
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from error


class _UnpackedFrames(io.RawIOBase):
    """The contents of all frames one after the other; raises CorpusError when the last one is not whole.

    zstandard's own reader takes a cut-off file for a short one.
    """

    def __init__(self, packed: BinaryIO, path: Path) -> None:
        self._packed = packed
        self._path = path
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._unread = b""  # packed bytes behind the end of a frame
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Say that it can be read, for BufferedReader."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the start of `buffer`; returns how many bytes, 0 at the end."""
        while not self._ready:
            packed = self._unread or self._packed.read(_CHUNK_BYTES)
            if not packed:
                if self._frame is not None:
                    raise CorpusError(f"{self._path}: cut off: its last zstandard frame has no end")
                return 0
            self._unpack(packed)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpack(self, packed: bytes) -> None:
        frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            self._ready = memoryview(frame.decompress(packed))
        except zstandard.ZstdError as error:
            raise CorpusError(f"{self._path}: damaged zstandard data: {error}") from error
        self._unread = frame.unused_data if frame.eof else b""
        self._frame = None if frame.eof else frame
