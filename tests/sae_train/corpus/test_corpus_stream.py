from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sae_train.corpus.corpus_stream import corpus_blocks
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import CorpusError
from sae_train.corpus.source import SourceConfig
from sae_train.corpus.token_blocks import TokenBlock
from tests.sae_train.corpus.tokenizers import word_tokenizer

TOKENIZER: PreTrainedTokenizerFast = word_tokenizer()


def write_corpus(folder: Path) -> list[SourceConfig]:
    """A file of conversations, one of which the template refuses, and a file of texts with a broken line."""
    chats: list[Any] = [[("user", f"question {i}"), ("assistant", f"answer {i}")] for i in range(200)]
    chats.insert(50, [("system", "no such place")])
    keys = ("role", "content")
    lines = [{"messages": [dict(zip(keys, turn, strict=True)) for turn in chat]} for chat in chats]
    (folder / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [json.dumps({"text": f"the common word {i}"}) for i in range(200)]
    texts.insert(70, '{"text": ')
    (folder / "text.jsonl").write_text("\n".join(texts))
    return [
        SourceConfig(path=str(folder / "chat.jsonl"), mode="fast", on_bad_line="skip"),
        SourceConfig(path=str(folder / "text.jsonl"), mode="block", on_bad_line="skip", share=2.0),
    ]


def blocks_of(sources: list[SourceConfig], **settings: Any) -> tuple[list[TokenBlock], CorpusCounts]:
    counts = CorpusCounts()
    wishes = {"held_out": False, "held_out_share": 0.3, "seed": 0} | settings
    blocks = corpus_blocks(
        sources, TOKENIZER, context=32, document_tokens=100, shuffle_window=50, counts=counts, **wishes
    )
    return list(blocks), counts


def test_the_same_settings_give_the_same_blocks_and_another_seed_others(tmp_path: Path) -> None:
    sources = write_corpus(tmp_path)

    assert blocks_of(sources) == blocks_of(sources)
    assert blocks_of(sources)[0] != blocks_of(sources, seed=1)[0]


def test_each_source_is_shuffled_by_itself(tmp_path: Path) -> None:
    chats = write_corpus(tmp_path)[0]

    blocks, _ = blocks_of([chats, chats])

    first, second = blocks[::2], blocks[1::2]  # equal shares of nearly equal blocks: they take turns
    assert [block.ids for block in first[:20]] != [block.ids for block in second[:20]]


def test_training_and_held_out_blocks_share_no_document_and_leave_none_out(tmp_path: Path) -> None:
    sources = write_corpus(tmp_path)

    train, train_counts = blocks_of(sources)
    held_out, held_out_counts = blocks_of(sources, held_out=True)

    chats = [{tuple(b.ids) for b in blocks if b.source == "chat"} for blocks in (train, held_out)]
    assert len(chats[0] & chats[1]) == 0
    assert len(chats[0] | chats[1]) == 200
    read = [train_counts.of(name).documents + held_out_counts.of(name).documents for name in ("chat", "text")]
    assert read == [200, 200]
    assert 30 < held_out_counts.of("text").documents < 90


def test_what_was_left_out_is_counted_by_source(tmp_path: Path) -> None:
    sources = write_corpus(tmp_path)

    counts = [blocks_of(sources, held_out=side)[1] for side in (False, True)]

    assert [c.of("text").skipped for c in counts] == [{"not a document": 1}, {}]  # read for both
    assert sum(c.of("chat").skipped.get("refused by the chat template", 0) for c in counts) == 1


@pytest.mark.parametrize(("index", "message"), [(0, "line 51: refused"), (1, "line 71: not a JSON object")])
def test_bad_lines_stop_the_stream_by_default(tmp_path: Path, index: int, message: str) -> None:
    source = write_corpus(tmp_path)[index]
    strict = SourceConfig(path=source.path, mode=source.mode)

    with pytest.raises(CorpusError, match=message):
        [blocks_of([strict], held_out=side) for side in (False, True)]
