"""A run's token blocks: its sources read, shuffled, split into training and held out, tokenised and mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import Document, is_held_out, shuffled
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig
from sae_train.corpus.token_blocks import TokenBlock, cut_blocks, fast_blocks, mixed_blocks


def corpus_blocks(
    sources: Sequence[SourceConfig],
    tokenizer: PreTrainedTokenizerBase,
    *,
    held_out: bool,
    held_out_share: float,
    seed: int,
    context: int,
    document_tokens: int,
    shuffle_window: int,
    counts: CorpusCounts,
) -> Iterator[TokenBlock]:
    """Yield all blocks of the training or of the held-out documents once, mixed by the sources' shares.

    The same arguments and files give the same blocks in the same order. `counts` is of these blocks as far
    as they were taken. Lines that are no documents are counted when they are read, and for training alone,
    since both parts read every line. Raises CorpusError.
    """
    streams = []
    reading_counts = CorpusCounts() if held_out else counts
    for index, source in enumerate(sources):
        generator = torch.Generator().manual_seed(seed + index)
        documents: Iterator[Document] = (
            document
            for document in shuffled(read_documents(source, reading_counts), generator, shuffle_window)
            if is_held_out(document, share=held_out_share, seed=seed) == held_out
        )
        if source.mode == "fast":
            stream = fast_blocks(
                documents, tokenizer, context=context, on_bad_line=source.on_bad_line, counts=counts
            )
        else:
            stream = cut_blocks(
                documents,
                tokenizer,
                context=context,
                document_tokens=document_tokens,
                on_bad_line=source.on_bad_line,
                counts=counts,
            )
        streams.append(stream)
    return mixed_blocks(streams, [source.share for source in sources])
