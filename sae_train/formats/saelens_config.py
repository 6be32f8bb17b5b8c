"""`cfg.json` as SAELens has written it since 2024: nested since version 6, flat before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sae_train.formats.stored_tensors import check_widths
from steerd.errors import SaeFileError
from steerd.sae.json_file import JsonObject, field, positive_field

_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_FOLDABLE = ("standard", "gated", "jumprelu", "topk", *_BATCH_TOPK)
_REASONS = {
    "abstopk": "its features can be active with negative values",
    "matching_pursuit": "its features are chosen one after another, each from what the others left",
    "temporal": "a feature's activation depends on other tokens",
}
_RUN_TIME_NORMS = {
    "layer_norm": "each token is layer-normalised, for which no weights can stand",
    "constant_norm_rescale": "each token is brought to one norm, for which no weights can stand",
    "covariance_whitening": "fold it in SAELens first (SAE.fold_activation_whitening)",
}
_NORMS = ("none", "expected_average_only_in")

_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_ABOUT = (
    "sae_lens_version",
    "training_architecture",
    "dataset_path",
    "context_size",
    "prepend_bos",
    "exclude_special_tokens",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hf_hook_name",
    "neuronpedia_id",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaelensConfig:
    """What decides the meaning of a SAELens weights file, whichever version wrote it."""

    path: Path
    legacy: bool
    architecture: str
    d_model: int
    d_sae: int
    model_name: object
    hook_name: object
    k: int | None
    apply_b_dec_to_input: bool
    rescale_acts_by_decoder_norm: bool
    normalize_activations: str
    finetuning_scaling_factor: bool
    about: JsonObject

    @property
    def is_batch_topk(self) -> bool:
        """Whether this is a checkpoint with one threshold, learnt for all features."""
        return self.architecture in _BATCH_TOPK


def read_saelens_config(record: JsonObject, path: Path) -> SaelensConfig:
    """The configuration; raises SaeFileError for what has no plain form."""
    where = str(path)
    legacy = _is_legacy(record, where)
    cfg = _modern(record) if legacy else record
    metadata = field(cfg, "metadata", dict, where)
    architecture = _architecture(cfg, where)
    _refuse_runtime_conventions(cfg, metadata, where)
    d_model, d_sae = positive_field(cfg, "d_in", where), positive_field(cfg, "d_sae", where)
    check_widths(path, d_model, d_sae)
    return SaelensConfig(
        path=path,
        legacy=legacy,
        architecture=architecture,
        d_model=d_model,
        d_sae=d_sae,
        model_name=metadata.get("model_name"),
        hook_name=metadata.get("hook_name"),
        k=positive_field(cfg, "k", where) if architecture == "topk" else None,
        apply_b_dec_to_input=field(cfg, "apply_b_dec_to_input", bool, where),
        rescale_acts_by_decoder_norm=_rescale(cfg, architecture, where),
        normalize_activations=cfg.get("normalize_activations") or "none",
        finetuning_scaling_factor=bool(cfg.get("finetuning_scaling_factor", False)),
        about={key: metadata[key] for key in _ABOUT if metadata.get(key) is not None},
    )


def _is_legacy(record: JsonObject, where: str) -> bool:
    metadata = record.get("metadata")
    nested = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    version = record.get("sae_lens_version") or nested
    if version is None:
        return True
    major = str(version).partition(".")[0]
    if not major.isdigit():
        raise SaeFileError(f"{where}: sae_lens_version must be a version, found {version!r}")
    return int(major) < 6


def _modern(record: JsonObject) -> JsonObject:
    """The flat form in today's names, with the defaults of its time."""
    cfg = {_OLD_NAMES.get(key, key): value for key, value in record.items()}
    hook_name = str(cfg.get("hook_name", ""))
    cfg.setdefault("apply_b_dec_to_input", True)
    cfg.setdefault("architecture", "standard")
    cfg.setdefault("prepend_bos", True)
    cfg.setdefault("activation_fn", "relu")
    cfg.setdefault("reshape_activations", "hook_z" if "hook_z" in hook_name else "none")
    if cfg["activation_fn"] == "topk":
        settings = cfg.get("activation_fn_kwargs")
        cfg |= {"architecture": "topk", "k": settings.get("k") if isinstance(settings, dict) else None}
    if isinstance(cfg.get("normalize_activations"), bool):
        cfg["normalize_activations"] = "expected_average_only_in" if cfg["normalize_activations"] else "none"
    cfg["metadata"] = {key: value for key, value in cfg.items() if key != "metadata"}
    return cfg


def _architecture(cfg: JsonObject, where: str) -> str:
    name = field(cfg, "architecture", str, where)
    if name not in _FOLDABLE:
        reason = (
            "it predicts another activation than it reads" if "transcoder" in name else _REASONS.get(name)
        )
        suffix = f": {reason}" if reason else ""
        raise SaeFileError(f"{where}: architecture must be one of {_FOLDABLE}, found {name!r}{suffix}")
    activation = cfg.get("activation_fn", "relu")
    if activation not in ("relu", "topk"):
        raise SaeFileError(f"{where}: activation_fn must be 'relu' or 'topk', found {activation!r}")
    return name


def _refuse_runtime_conventions(cfg: JsonObject, metadata: JsonObject, where: str) -> None:
    norm = cfg.get("normalize_activations") or "none"
    if norm not in _NORMS:
        reason = _RUN_TIME_NORMS.get(str(norm), "it is not known")
        raise SaeFileError(
            f"{where}: normalize_activations must be one of {_NORMS}, found {norm!r}: {reason}"
        )
    if (cfg.get("reshape_activations") or "none") != "none":
        found = cfg["reshape_activations"]
        raise SaeFileError(
            f"{where}: reshape_activations must be 'none', found {found!r}: "
            "it reads attention heads before their output projection"
        )
    if metadata.get("hook_head_index") is not None:
        found = metadata["hook_head_index"]
        raise SaeFileError(f"{where}: hook_head_index must be null, found {found!r}: it reads one head")


def _rescale(cfg: JsonObject, architecture: str, where: str) -> bool:
    rescale = field(
        {"rescale_acts_by_decoder_norm": False} | cfg, "rescale_acts_by_decoder_norm", bool, where
    )
    return rescale and architecture in ("topk", *_BATCH_TOPK)
