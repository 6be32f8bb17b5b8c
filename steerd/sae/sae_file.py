"""An SAE on disk: one folder, in SAELens's form, with what steerd knows besides.

    cfg.json                  architecture, widths, host and hook point           SAELens's form
    sae_weights.safetensors   W_enc, b_enc, W_dec, b_dec, threshold               SAELens's form
    steerd.json               provenance: host, recipe, data, metrics             optional
    features.safetensors      statistics of every feature                         optional
    features.jsonl            label, top tokens and examples, one line a feature  optional

Only data is read, never code. Whatever is wrong is an SaeFileError that names the file, the tensor or line,
what was expected and what was found.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from steerd.errors import SaeFileError
from steerd.sae.activation_function import JumpReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.config_file import (
    IMPORT_HINT,
    Architecture,
    SaeConfigFile,
    architecture_of,
    config_bytes,
    read_config,
)
from steerd.sae.feature_files import (
    FeatureStatistics,
    notes_bytes,
    read_notes,
    read_statistics,
    statistics_bytes,
)
from steerd.sae.feature_note import FeatureNote
from steerd.sae.folding import fold_b_dec_into_encoder, fold_decoder_norm
from steerd.sae.json_file import JsonObject, read_json_object
from steerd.sae.tensor_file import check_finite, read_tensors, tensor_bytes
from steerd.sae.whole_folder import write_whole_file, write_whole_folder

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
PROVENANCE_FILE = "steerd.json"
STATISTICS_FILE = "features.safetensors"
NOTES_FILE = "features.jsonl"

FILES = (CONFIG_FILE, WEIGHTS_FILE, PROVENANCE_FILE, STATISTICS_FILE, NOTES_FILE)

FORMAT_VERSION = 1

_WEIGHTS_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class SaeMetadata:
    """What is known of an SAE beside its weights.

    `hook_point` is in its printed form. `weights_dtype` and `weights_sha256` are those of the weights file
    that it was read from, the hash empty for an SAE that was never saved. `provenance` is what steerd.json
    holds.
    """

    name: str
    model_name: str
    hook_point: str
    d_model: int
    d_sae: int
    architecture: Architecture
    weights_dtype: str = "float32"
    weights_sha256: str = ""
    provenance: JsonObject = field(default_factory=dict)

    @classmethod
    def describe(
        cls,
        sae: SparseAutoencoder,
        *,
        name: str,
        model_name: str,
        hook_point: str,
        provenance: JsonObject | None = None,
    ) -> SaeMetadata:
        """Metadata of an SAE that has not been saved yet."""
        return cls(
            name=name,
            model_name=model_name,
            hook_point=hook_point,
            d_model=sae.d_model,
            d_sae=sae.d_sae,
            architecture=architecture_of(sae.activation),
            provenance=provenance or {},
        )


@dataclass(frozen=True, slots=True)
class SaeBundle:
    """Everything in an SAE folder; `notes` and the statistics are about all features, in order."""

    sae: SparseAutoencoder
    metadata: SaeMetadata
    statistics: FeatureStatistics | None = None
    notes: tuple[FeatureNote, ...] | None = None


def load_sae(folder: Path, *, name: str | None = None) -> SaeBundle:
    """Read an SAE folder into the plain form, in float32 on the CPU; raises SaeFileError.

    The SAE is called what its folder is called unless a name is given. A link that leads out of the folder is
    refused, whichever file it stands for.
    """
    identity = _identity(folder)
    files = _files_in(folder)
    config = read_config(_required(files, CONFIG_FILE, folder))
    d_sae, weights = config.d_sae, _required(files, WEIGHTS_FILE, folder)
    tensors = read_tensors(weights, config.tensor_specs())
    bundle = SaeBundle(
        sae=_plain_form(config, tensors, weights),
        metadata=SaeMetadata(
            name=folder.resolve().name if name is None else name,
            model_name=config.model_name,
            hook_point=config.hook_point,
            d_model=config.d_model,
            d_sae=d_sae,
            architecture=config.architecture,
            weights_dtype=str(tensors["W_enc"].dtype).removeprefix("torch."),
            weights_sha256=_sha256(weights),
            provenance=_read_provenance(files[PROVENANCE_FILE]) if PROVENANCE_FILE in files else {},
        ),
        statistics=read_statistics(files[STATISTICS_FILE], d_sae) if STATISTICS_FILE in files else None,
        notes=read_notes(files[NOTES_FILE], d_sae) if NOTES_FILE in files else None,
    )
    if _identity(folder) != identity:
        raise SaeFileError(f"{folder}: was changed while it was read; load it again")
    return bundle


def save_sae(folder: Path, bundle: SaeBundle, *, weights_dtype: torch.dtype = torch.float32) -> SaeMetadata:
    """Write an SAE folder whole or not at all, replacing an older one, and return its metadata as written.

    With bfloat16 only W_enc and W_dec are rounded: biases and thresholds decide which features are active,
    and are small. Raises SaeFileError for values that are not finite and for a place that cannot be written
    to.
    """
    assert weights_dtype in (torch.float32, torch.bfloat16), f"weights are not stored in {weights_dtype}"
    d_sae, metadata = bundle.sae.d_sae, bundle.metadata
    weights = tensor_bytes(_tensors_to_store(bundle.sae, weights_dtype, folder / WEIGHTS_FILE))
    provenance = {"format_version": FORMAT_VERSION} | metadata.provenance
    files: dict[str, bytes | None] = dict.fromkeys(FILES)
    files[CONFIG_FILE] = config_bytes(_config_of(bundle))
    files[WEIGHTS_FILE] = weights
    files[PROVENANCE_FILE] = _json_bytes(provenance, folder / PROVENANCE_FILE)
    if bundle.statistics is not None:
        files[STATISTICS_FILE] = statistics_bytes(bundle.statistics, d_sae, folder / STATISTICS_FILE)
    if bundle.notes is not None:
        files[NOTES_FILE] = notes_bytes(bundle.notes, d_sae, folder / NOTES_FILE)
    try:
        write_whole_folder(folder, files)
    except OSError as error:
        raise SaeFileError(f"{folder}: cannot be written: {error}") from error
    return replace(
        metadata,
        weights_dtype=str(weights_dtype).removeprefix("torch."),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        provenance=provenance,
    )


def save_notes(
    folder: Path, notes: Sequence[FeatureNote], statistics: FeatureStatistics | None = None
) -> None:
    """Replace the notes of an SAE folder, and the statistics where there are any, and nothing else in it.

    Each file is written whole or not at all, the notes last. Raises SaeFileError.
    """
    config = _required(_files_in(folder), CONFIG_FILE, folder)
    d_sae = read_config(config).d_sae
    files = {NOTES_FILE: notes_bytes(notes, d_sae, folder / NOTES_FILE)}
    if statistics is not None:
        content = statistics_bytes(statistics, d_sae, folder / STATISTICS_FILE)
        files = {STATISTICS_FILE: content} | files
    for name, content in files.items():
        try:
            write_whole_file(config.with_name(name), content)
        except OSError as error:
            raise SaeFileError(f"{folder / name}: cannot be written: {error}") from error


def _identity(folder: Path) -> tuple[int, int, int]:
    """Tells the folder from one that takes its place, even where the system reuses its number."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise SaeFileError(f"{folder}: expected an SAE folder: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _files_in(folder: Path) -> dict[str, Path]:
    """What lies in the folder by name, after a look at every link."""
    if not folder.is_dir():
        raise SaeFileError(f"{folder}: expected an SAE folder, found a file")
    root = folder.resolve()
    try:
        entries = {entry.name: entry for entry in sorted(root.iterdir())}
    except OSError as error:
        raise SaeFileError(f"{folder}: cannot be read: {error.strerror}") from error
    for name, entry in entries.items():
        target = Path(os.path.realpath(entry))  # unlike resolve(), it does not raise for links in a circle
        if not target.is_relative_to(root):
            raise SaeFileError(f"{folder / name}: is a link that leads out of the folder, to {target}")
        if name in FILES and not target.is_file():
            raise SaeFileError(f"{folder / name}: expected a regular file")
    return entries


def _required(files: dict[str, Path], name: str, folder: Path) -> Path:
    if name not in files:
        hint = f"; {IMPORT_HINT}" if any(path.suffix in _WEIGHTS_SUFFIXES for path in files.values()) else ""
        raise SaeFileError(f"{folder}: {name} is missing; found {sorted(files) or 'an empty folder'}{hint}")
    return files[name]


def _plain_form(config: SaeConfigFile, tensors: dict[str, Tensor], path: Path) -> SparseAutoencoder:
    tensors = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    sae = SparseAutoencoder(
        W_enc=tensors["W_enc"],
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation=config.activation(tensors),
    )
    if config.apply_b_dec_to_input:
        sae = fold_b_dec_into_encoder(sae)
    if config.rescale_acts_by_decoder_norm:
        sae = fold_decoder_norm(sae, ranked_by_norm=True)
    sae = sae.to(dtype=torch.float32)
    for name, tensor in _tensors_of(sae).items():
        check_finite(tensor, f"{path}: tensor {name}, in plain form and float32")
    return sae


def _tensors_of(sae: SparseAutoencoder) -> dict[str, Tensor]:
    tensors = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if isinstance(sae.activation, JumpReLU):
        tensors["threshold"] = sae.activation.threshold
    return tensors


def _tensors_to_store(sae: SparseAutoencoder, weights_dtype: torch.dtype, path: Path) -> dict[str, Tensor]:
    tensors = _tensors_of(sae.to(dtype=torch.float32))
    for name in ("W_enc", "W_dec"):
        tensors[name] = tensors[name].to(weights_dtype)
    for name, tensor in tensors.items():
        check_finite(tensor, f"{path}: tensor {name}")
    return tensors


def _config_of(bundle: SaeBundle) -> SaeConfigFile:
    sae = bundle.sae
    return SaeConfigFile(
        architecture=architecture_of(sae.activation),
        d_model=sae.d_model,
        d_sae=sae.d_sae,
        model_name=bundle.metadata.model_name,
        hook_point=bundle.metadata.hook_point,
        k=sae.activation.k if isinstance(sae.activation, TopK) else None,
    )


def _read_provenance(path: Path) -> JsonObject:
    provenance = read_json_object(path)
    version = provenance.get("format_version")
    if version != FORMAT_VERSION:
        raise SaeFileError(f"{path}: format_version must be {FORMAT_VERSION}, found {version!r}")
    return provenance


def _json_bytes(value: JsonObject, path: Path) -> bytes:
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise SaeFileError(f"{path}: cannot be written: {error}") from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SaeFileError(f"{path}: cannot be read: {error.strerror}") from error
