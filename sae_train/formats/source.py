"""The files that a user names for import: found, kept within their folder, read as data and hashed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from sae_train.formats.npz_file import open_npz
from sae_train.formats.stored_tensors import StoredTensors, open_safetensors
from sae_train.formats.torch_file import open_torch_file
from steerd.errors import SaeFileError
from steerd.sae.json_file import JsonObject, read_json_object

_OPENERS: dict[str, Callable[[Path], StoredTensors]] = {
    ".safetensors": open_safetensors,
    ".npz": open_npz,
    ".pt": open_torch_file,
    ".pth": open_torch_file,
}
WEIGHTS_SUFFIXES = tuple(_OPENERS)


class Source:
    """A folder of someone's SAE, or one file in it; `named_file` is that file, or a folder's only `.pt` file.

    A link is followed where it stays in the folder, or in the Hugging Face cache's folder of the same
    repository, whose snapshots are links to its blobs.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise SaeFileError(f"{path}: expected a folder or a weights file, found nothing")
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.named_file = path.name if not path.is_dir() else self._only_torch_file()
        self._root = _root_of(self.folder)
        self._used: dict[str, Path] = {}
        self._weights: dict[str, StoredTensors] = {}

    @property
    def place(self) -> str:
        """The full path as text with forward slashes: some layouts say in it what no file of theirs says."""
        return Path(os.path.abspath(self.path)).as_posix()

    def has(self, name: str) -> bool:
        """Whether the folder holds a file of that name."""
        return os.path.lexists(self.folder / name)

    def names(self, *suffixes: str) -> list[str]:
        """The files of the folder that end so, sorted."""
        return sorted(entry.name for entry in self.folder.iterdir() if entry.name.endswith(suffixes))

    def file(self, name: str) -> Path:
        """The regular file of that name; raises SaeFileError where it is missing or leads elsewhere."""
        path = self.folder / name
        if not os.path.lexists(path):
            raise SaeFileError(f"{self.folder}: {name} is missing; found {self.names('')}")
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(self._root):
            raise SaeFileError(f"{path}: is a link that leads out of the folder, to {target}")
        if not target.is_file():
            raise SaeFileError(f"{path}: expected a regular file")
        self._used[name] = path
        return path

    def json(self, name: str) -> JsonObject:
        """The JSON object in the file."""
        return read_json_object(self.file(name))

    def weights(self, name: str) -> StoredTensors:
        """The tensors of the file, by the reader for its suffix; opened once."""
        if name not in self._weights:
            path = self.file(name)
            self._weights[name] = _OPENERS[path.suffix](path)
        return self._weights[name]

    def sha256(self) -> dict[str, str]:
        """The hash of every file that was read."""
        return {name: _sha256(path) for name, path in sorted(self._used.items())}

    def _only_torch_file(self) -> str | None:
        """A download of one `.pt` file is often named by its folder."""
        weights = self.names(*WEIGHTS_SUFFIXES)
        return weights[0] if len(weights) == 1 and weights[0].endswith((".pt", ".pth")) else None


def _root_of(folder: Path) -> Path:
    real = folder.resolve()
    for parent in real.parents:
        if parent.name.startswith("models--") and real.is_relative_to(parent / "snapshots"):
            return parent
    return real


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SaeFileError(f"{path}: cannot be read: {error.strerror}") from error
