"""From someone's SAE files to an SAE folder that steerd and SAELens load."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_train.formats import (
    dictionary_learning,
    gemma_scope,
    llama_scope,
    openai,
    saelens,
    single_files,
    sparsify,
)
from sae_train.formats.foreign_sae import Folded, ForeignSae, fold
from sae_train.formats.layout import ImportOptions, Layout
from sae_train.formats.source import WEIGHTS_SUFFIXES, Source
from steerd.errors import SaeFileError
from steerd.sae.json_file import JsonObject
from steerd.sae.sae_file import SaeBundle, SaeMetadata, load_sae, save_sae

LAYOUTS: tuple[Layout, ...] = (
    saelens.LAYOUT,
    gemma_scope.LAYOUT_1,
    gemma_scope.LAYOUT_2,
    sparsify.LAYOUT,
    dictionary_learning.LAYOUT,
    openai.LAYOUT,
    llama_scope.LAYOUT,
    single_files.QWEN_SCOPE,
    single_files.GOODFIRE,
)
AUTO = "auto"
FORMATS = (AUTO, *(layout.name for layout in LAYOUTS))


def import_sae(
    path: Path,
    output: Path,
    options: ImportOptions,
    *,
    format_name: str = AUTO,
    keep_decoder_norms: bool = False,
) -> SaeMetadata:
    """Read the files at `path`, write the SAE folder `output` whole or not at all, and load it again.

    Returns its metadata as written. Raises SaeFileError for files of no layout or of several, and for
    whatever cannot be turned into the plain form exactly.
    """
    source = Source(path)
    if output.resolve() == source.folder.resolve():
        raise SaeFileError(f"{output}: must be another folder than the one that is imported")
    layout = choose_layout(source, format_name)
    layout.check_options(options)
    foreign = layout.read(source, options)
    _check_orientation(foreign, source, format_name)
    folded = fold(foreign, keep_decoder_norms=keep_decoder_norms)
    provenance = _provenance(foreign, folded, source)
    metadata = SaeMetadata.describe(
        folded.sae,
        name=output.name,
        model_name=foreign.model_name,
        hook_point=str(foreign.hook_point),
        provenance=provenance,
    )
    sae = folded.sae.to(dtype=torch.float32)
    del source, foreign, folded  # several times the weights, in float64
    written = save_sae(output, SaeBundle(sae=sae, metadata=metadata))
    load_sae(output)
    return written


def summary(metadata: SaeMetadata) -> JsonObject:
    """What a user wants to see of an import."""
    imported = metadata.provenance["imported"]
    return {
        "layout": imported["layout"],
        "kind": imported["kind"],
        "architecture": metadata.architecture,
        "d_model": metadata.d_model,
        "d_sae": metadata.d_sae,
        "model": metadata.model_name,
        "hook_point": metadata.hook_point,
        "folded": imported["folded"],
        "activation_units": metadata.provenance["activation_units"],
    }


def choose_layout(source: Source, format_name: str = AUTO) -> Layout:
    """The layout of that name or, with auto, the only one whose marks the files bear; raises SaeFileError."""
    if format_name != AUTO:
        layout = next(layout for layout in LAYOUTS if layout.name == format_name)
        if not layout.recognises(source):
            raise SaeFileError(f"{source.path}: is not in the layout {layout.name}, which has {layout.marks}")
        return layout
    found = [layout for layout in LAYOUTS if layout.recognises(source)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(layout.name for layout in found)
        raise SaeFileError(f"{source.path}: holds files of several layouts ({names}); give --format")
    known = "; ".join(f"{layout.name} ({layout.marks})" for layout in LAYOUTS)
    weights = source.names(*WEIGHTS_SUFFIXES)
    raise SaeFileError(f"{source.path}: is in no layout that is read here: {known}; found weights {weights}")


def _check_orientation(foreign: ForeignSae, source: Source, format_name: str) -> None:
    d_model, d_sae = foreign.weights.d_model, foreign.weights.d_sae
    if d_model == d_sae and format_name == AUTO:
        raise SaeFileError(
            f"{source.path}: d_model and d_sae are both {d_sae}, so a transposed matrix would pass unseen; "
            f"give --format {foreign.layout} where you know that layout to be right"
        )


def _provenance(foreign: ForeignSae, folded: Folded, source: Source) -> JsonObject:
    return {
        "host": {"name": foreign.model_name},
        "hook_point": str(foreign.hook_point),
        "activation_units": folded.activation_units,
        "imported": {
            "layout": foreign.layout,
            "kind": foreign.kind,
            "source": source.path.name,
            "sha256": source.sha256(),
            "folded": list(folded.steps),
            "about": foreign.about,
        },
    }
