from __future__ import annotations

import pytest

from sae_train.corpus.documents import ChatDocument, CorpusError, TextDocument
from sae_train.corpus.token_blocks import TokenBlock, cut_blocks, fast_blocks, mixed_blocks, take_tokens
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat

END_OF_TEXT = 256


def chat(text: str) -> ChatDocument:
    return ChatDocument((ChatMessage("user", text), ChatMessage("assistant", "ok")), source="chat")


def test_fast_gives_each_conversation_alone_through_the_template(tiny_host: HostModel) -> None:
    documents = [chat("hello"), chat("a much longer question than the context admits")]

    short, long = fast_blocks(documents, tiny_host.tokenizer, context=40)

    assert short.ids == encode_chat(tiny_host.tokenizer, documents[0].messages, add_generation_prompt=False)
    assert len(long.ids) == 40
    assert short.keep == [False] + [True] * (len(short.ids) - 1)


def test_fast_refuses_plain_text(tiny_host: HostModel) -> None:
    with pytest.raises(CorpusError, match="needs chats"):
        list(fast_blocks([TextDocument("x", source="novel")], tiny_host.tokenizer, context=8))


def test_blocks_join_documents_of_one_source_and_are_full(tiny_host: HostModel) -> None:
    documents = [TextDocument("aaa", "x"), TextDocument("zzzzz", "y"), TextDocument("bbb", "x")]

    blocks = list(cut_blocks(documents, tiny_host.tokenizer, context=6, document_tokens=100))

    letter = {name: ord(name) for name in "abz"}
    assert [(b.ids, b.source) for b in blocks] == [
        ([letter["z"]] * 5 + [END_OF_TEXT], "y"),
        ([letter["a"]] * 3 + [END_OF_TEXT] + [letter["b"]] * 2, "x"),
    ]


def test_a_long_document_gives_only_its_first_tokens(tiny_host: HostModel) -> None:
    blocks = cut_blocks([TextDocument("a" * 1000, "x")], tiny_host.tokenizer, context=10, document_tokens=25)

    assert len(list(blocks)) == 2


def test_mixing_follows_the_shares_and_goes_on_when_one_stream_ends() -> None:
    block = TokenBlock(ids=[0] * 11, keep=[False] + [True] * 10, source="")
    a = iter([TokenBlock(block.ids, block.keep, "a")] * 90)
    b = iter([TokenBlock(block.ids, block.keep, "b")] * 10)

    sources = [mixed.source for mixed in mixed_blocks([a, b], [3.0, 1.0])]

    assert sources[:36].count("b") == 9
    assert len(sources) == 100


def test_taking_tokens_stops_at_the_first_block_that_reaches_them() -> None:
    stream = iter([TokenBlock(ids=[0] * 5, keep=[False] + [True] * 4, source="")] * 10)

    taken = list(take_tokens(stream, 9))

    assert len(taken) == 3
    assert len(list(stream)) == 7
