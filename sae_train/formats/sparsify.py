"""sparsify (EleutherAI): one folder a hook point, `cfg.json` and `sae.safetensors`.

encode: relu((x - b_dec) @ encoder.weightᵀ + encoder.bias), then the k largest. Rows of W_dec are features, so
it is not transposed; encoder.weight is. `multi_topk` adds a training loss and leaves the forward alone.
"""

from __future__ import annotations

from pathlib import Path

from sae_train.formats.foreign_sae import ForeignSae, plain_weights
from sae_train.formats.hook_names import resolve_hook_point
from sae_train.formats.layout import ImportOptions, Layout, checked_k, model_name
from sae_train.formats.source import Source
from sae_train.formats.stored_tensors import check_widths
from steerd.errors import SaeFileError
from steerd.sae.activation_function import TopK
from steerd.sae.json_file import JsonObject, field, positive_field

_CONFIG, _WEIGHTS = "cfg.json", "sae.safetensors"
_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def _read(source: Source, options: ImportOptions) -> ForeignSae:
    config, where = source.json(_CONFIG), source.folder / _CONFIG
    _refuse_other_forwards(config, where)
    d_model, d_sae = _widths(config, where)
    stored = source.weights(_WEIGHTS)
    stored.expect(_TENSORS)
    b_dec = stored.take("b_dec", (d_model,))
    run = _run_config(source)
    return ForeignSae(
        layout=LAYOUT.name,
        kind="SparseCoder topk",
        model_name=model_name(run.get("model"), options, where),
        hook_point=resolve_hook_point(_hook(source), options.hook_point, source.folder),
        weights=plain_weights(
            stored.take("encoder.weight", (d_sae, d_model)).T,
            stored.take("encoder.bias", (d_sae,)),
            stored.take("W_dec", (d_sae, d_model)),
            b_dec,
            TopK(checked_k(positive_field(config, "k", str(where)), d_sae, where)),
        ),
        b_dec_on_input=True,
        turned=("encoder.weight transposed",),
        about={key: run[key] for key in ("dataset", "split", "ctx_len") if key in run},
    )


def _refuse_other_forwards(config: JsonObject, where: Path) -> None:
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise SaeFileError(
            f"{where}: activation must be 'topk', found {activation!r}: "
            "which features are active would depend on groups of features"
        )
    for key, what in (
        ("transcode", "it predicts another activation than it reads"),
        ("skip_connection", "its output has a part that no feature carries"),
        ("signed", "its features can be active with negative values"),
    ):
        if config.get(key):
            raise SaeFileError(f"{where}: {key} must be false, found {config[key]!r}: {what}")


def _widths(config: JsonObject, where: Path) -> tuple[int, int]:
    d_model = positive_field(config, "d_in", str(where))
    d_sae = config.get("num_latents") or d_model * positive_field(config, "expansion_factor", str(where))
    d_sae = field({"num_latents": d_sae}, "num_latents", int, str(where))
    check_widths(where, d_model, d_sae)
    return d_model, d_sae


def _hook(source: Source) -> str:
    """The folder is named for the module whose output it read; with several seeds, its parent is."""
    folder = source.folder.resolve()
    return folder.parent.name if folder.name.startswith("seed") else folder.name


def _run_config(source: Source) -> JsonObject:
    """The run's `config.json`, one folder up, where it is there; it only describes."""
    run = Source(source.folder.resolve().parent)
    return run.json("config.json") if run.has("config.json") else {}


LAYOUT = Layout(
    name="sparsify",
    marks=f"{_CONFIG} and {_WEIGHTS}",
    recognises=lambda source: source.has(_CONFIG) and source.has(_WEIGHTS),
    read=_read,
)
