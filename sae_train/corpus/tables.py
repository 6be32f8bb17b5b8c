"""Rows of Parquet files and of data sets on the Hugging Face hub, by the optional packages that read them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_train.corpus.documents import CorpusError
from sae_train.corpus.records import Record, columns_read
from sae_train.corpus.source import HUB_PREFIX, SourceConfig

_ROWS_AT_ONCE = 256
_READ_BYTES = 1 << 20


def parquet_rows(source: SourceConfig) -> Iterator[tuple[str, Record]]:
    """Yield each row with words for its place, a few hundred decoded at once; CorpusError names the file."""
    parquet = _optional("pyarrow.parquet", source)
    path = Path(source.path)
    number = 0
    try:
        with parquet.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
            columns = [name for name in columns_read(source) if name in file.schema_arrow.names]
            if not set(columns) - {source.source_column}:
                raise CorpusError(_no_column(source, file.schema_arrow.names))
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except OSError as error:
        raise CorpusError(f"{path}, after row {number}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # Arrow's errors about contents are ValueErrors
        raise CorpusError(f"{path}, after row {number}: damaged Parquet data: {error}") from error


def hub_rows(source: SourceConfig) -> Iterator[tuple[str, Record]]:
    """Yield each row of a streamed data set with words for its place; nothing is kept on disk.

    Raises CorpusError naming the data set when it cannot be opened, and when the stream breaks off.
    """
    rows = iter(_open_hub(source))
    number = 0
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # whatever the file systems and formats below it raise
            message = f"{source.path}, after document {number}: the stream broke off: {_reason(error)}"
            raise CorpusError(message) from error
        if row is None:
            return
        number += 1
        yield f"{source.path}, document {number}", row


def _open_hub(source: SourceConfig) -> Any:  # Any: the package ships no types
    datasets = _optional("datasets", source)
    try:
        return datasets.load_dataset(
            source.path.removeprefix(HUB_PREFIX),
            source.hub_config or None,
            split=source.hub_split,
            revision=source.hub_revision or None,
            streaming=True,
        )
    except Exception as error:  # whatever the hub's client, the network and the formats raise
        raise CorpusError(f"{source.path}: cannot be opened: {_reason(error)}") from error


def _optional(module: str, source: SourceConfig) -> Any:  # Any: the packages ship no types
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise CorpusError(
            f"{source.path}: needs the package {package}, which is not installed; "
            f"install it with: pip install 'steerd[datasets]'"
        ) from error


def _no_column(source: SourceConfig, found: list[str]) -> str:
    wanted = [name for name in columns_read(source) if name != source.source_column]
    return f"{source.path}: none of the columns {wanted}; it has {sorted(found)}"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
