"""What the importer needs to know of one layout, and what a user may add to its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from sae_train.formats.foreign_sae import ForeignSae
from sae_train.formats.source import Source
from steerd.errors import ConfigError, SaeFileError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a user says where the files do not.

    `hook_point` is in its printed form; `model` is the host's name and replaces the one in the files;
    `activation_scale` is what the training activations were multiplied by; `k` is a TopK's number of active
    features.
    """

    hook_point: str | None = None
    model: str | None = None
    activation_scale: float | None = None
    k: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One layout: its name, the files that mark it, its reader, and which options beside
    `hook_point` and `model` it has a use for.

    `recognises` looks at names only: of files, and for a single `.pt` file of tensors.
    """

    name: str
    marks: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source, ImportOptions], ForeignSae]
    uses: frozenset[str] = frozenset()

    def check_options(self, options: ImportOptions) -> None:
        """Raises ConfigError for an option that would go unused."""
        for option in fields(options):
            if option.name in ("hook_point", "model") or option.name in self.uses:
                continue
            if getattr(options, option.name) is not None:
                raise ConfigError(f"--{option.name.replace('_', '-')}: has no meaning for {self.name} files")


def model_name(said: object, options: ImportOptions, where: object) -> str:
    """The host's name, the user's before the file's; raises SaeFileError where neither is there."""
    name = options.model or said
    if not isinstance(name, str) or not name:
        raise SaeFileError(f"{where}: no file says which model it was trained on; give --model NAME")
    return name


def checked_k(k: int, d_sae: int, where: object) -> int:
    """k; raises SaeFileError where no TopK of that width can have it."""
    if not 1 <= k <= d_sae:
        raise SaeFileError(f"{where}: k must be between 1 and d_sae = {d_sae}, found {k}")
    return k
