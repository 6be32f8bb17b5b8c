from __future__ import annotations

import random

import pytest
from transformers import PreTrainedTokenizerFast

from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import ChatDocument, CorpusError, Document, TextDocument, text_of
from sae_train.corpus.token_blocks import TokenBlock, cut_blocks, fast_blocks, mixed_blocks, take_tokens
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage
from tests.sae_train.corpus.tokenizers import LONG_WORD, word_tokenizer
from tests.tiny_hosts import byte_tokenizer

END_OF_TEXT = 256
BYTES = byte_tokenizer()
WORDS = word_tokenizer()


def chat(text: str, source: str = "chat") -> ChatDocument:
    return ChatDocument((ChatMessage("user", text), ChatMessage("assistant", "ok")), source=source)


def random_text(draw: random.Random, longest: int) -> str:
    letters = ["the ", "common ", f"{LONG_WORD} ", "é", "漢字", "\n", "<|im_end|>", "\U0001f600", " "]
    return "".join(draw.choice(letters) for _ in range(draw.randrange(longest)))


def random_documents(seed: int, *, chats: bool, longest: int = 60) -> list[Document]:
    """More than one group of documents, from three sources, some of them empty."""
    draw = random.Random(seed)
    documents: list[Document] = []
    for number in range(300):
        source, text = f"s{number % 3}", random_text(draw, longest)
        documents.append(chat(text, source) if chats else TextDocument(text, source))
    return documents


def chat_ids(document: ChatDocument, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The plain way: this conversation alone, by the library's one call."""
    turns = [{"role": message.role, "content": message.content} for message in document.messages]
    return list(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS], ids=["bytes", "words"])
def test_fast_gives_every_conversation_alone_through_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    documents = random_documents(seed=1, chats=True)
    counts = CorpusCounts()

    blocks = list(fast_blocks(documents, tokenizer, context=100, counts=counts))

    plain = [chat_ids(d, tokenizer) for d in documents if isinstance(d, ChatDocument)]
    assert [block.ids for block in blocks] == [ids[:100] for ids in plain]
    assert [block.source for block in blocks] == [document.source for document in documents]
    assert all(block.keep == [False] + [True] * (len(block.ids) - 1) for block in blocks)
    assert {name: c.documents for name, c in counts.sources.items()} == {"s0": 100, "s1": 100, "s2": 100}
    assert sum(c.truncated for c in counts.sources.values()) == sum(len(ids) > 100 for ids in plain) > 0
    assert sum(c.tokens for c in counts.sources.values()) == sum(block.kept_tokens for block in blocks)


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS], ids=["bytes", "words"])
@pytest.mark.parametrize("chats", [True, False], ids=["BT(F)", "BT(P)"])
@pytest.mark.parametrize("document_tokens", [40, 10_000])
def test_block_joins_documents_of_one_source_and_cuts(
    tokenizer: PreTrainedTokenizerFast, chats: bool, document_tokens: int
) -> None:
    documents = random_documents(seed=2, chats=chats, longest=200)
    counts = CorpusCounts()

    blocks = list(
        cut_blocks(documents, tokenizer, context=64, document_tokens=document_tokens, counts=counts)
    )

    separator = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for source in ("s0", "s1", "s2"):
        joined: list[int] = []
        for document in (d for d in documents if d.source == source):
            if isinstance(document, ChatDocument):
                ids = chat_ids(document, tokenizer)
            else:
                ids = tokenizer(document.text)["input_ids"]
            joined += [*ids[:document_tokens], separator] if ids else []
        given = [id for block in blocks if block.source == source for id in block.ids]
        assert given == joined[: len(joined) - len(joined) % 64]
        assert counts.of(source).leftover_tokens == len(joined) % 64
        assert counts.of(source).tokens == len(given) // 64 * 63
    assert {len(block.ids) for block in blocks} == {64}


@pytest.mark.real_host
def test_the_default_host_gets_the_ids_that_its_tokenizer_gives_alone(real_host: HostModel) -> None:
    tokenizer = real_host.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    chats, texts = (random_documents(seed=3, chats=side) for side in (True, False))

    blocks = list(fast_blocks(chats, tokenizer, context=200))
    joined = [id for b in cut_blocks(texts, tokenizer, context=8, document_tokens=10**6) for id in b.ids]

    assert [b.ids for b in blocks] == [
        chat_ids(chat, tokenizer)[:200] for chat in chats if isinstance(chat, ChatDocument)
    ]
    counted = [len(tokenizer(text_of(document))["input_ids"]) for document in texts]
    by_source = [sum(n + 1 for n in counted[first::3] if n) for first in range(3)]
    assert len(joined) == sum(total - total % 8 for total in by_source)


def test_block_counts_truncated_and_empty_documents() -> None:
    documents = [TextDocument(text, "x", where=f"line {n}") for n, text in enumerate(["", "a" * 5, "b" * 6])]
    counts = CorpusCounts()

    blocks = list(cut_blocks(documents, BYTES, context=4, document_tokens=5, counts=counts))

    assert [block.ids for block in blocks] == [[97] * 4, [97, END_OF_TEXT, 98, 98], [98, 98, 98, END_OF_TEXT]]
    assert counts.as_json() == {
        "sources": {
            "x": {
                "documents": 2,
                "truncated": 1,
                "tokens": 9,
                "skipped": {"no tokens": 1},
                "leftover_tokens": 0,
            }
        },
        "examples": {"no tokens": "line 0"},
    }


def test_tokens_longer_than_usual_do_not_shorten_a_document() -> None:
    """Only the head of a long text is tokenised; here a head of the usual length has too few tokens."""
    text = f"{LONG_WORD} " * 100

    (block,) = cut_blocks([TextDocument(text, "x")], WORDS, context=51, document_tokens=50)

    assert block.ids[:50] == WORDS(text)["input_ids"][:50]


def test_fast_counts_what_it_cannot_train_on() -> None:
    only_content = word_tokenizer("{{ messages[0].content }}")
    documents = [chat("<bos>"), chat("<bos><bos>"), chat("")]
    counts = CorpusCounts()

    (block,) = fast_blocks(documents, only_content, context=8, on_bad_line="skip", counts=counts)

    assert len(block.ids) == 2
    assert counts.of("chat").documents == 1
    assert counts.of("chat").skipped == {
        "one token, which as the first of its sequence is never trained on": 1,
        "refused by the chat template": 1,
    }


def test_an_empty_message_is_trained_on() -> None:
    (block,) = fast_blocks([chat("")], WORDS, context=100)

    assert block.ids == chat_ids(chat(""), WORDS)


def test_fast_refuses_plain_text() -> None:
    with pytest.raises(CorpusError, match=r"line 3: mode 'fast' needs chats"):
        list(fast_blocks([TextDocument("x", source="novel", where="line 3")], BYTES, context=8))


def test_block_needs_a_token_to_join_documents_by() -> None:
    documents = [TextDocument("x", "x")]

    with pytest.raises(CorpusError, match="mode 'block' joins documents by an end-of-text token"):
        list(cut_blocks(documents, word_tokenizer(end_of_text=None), context=4, document_tokens=4))


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
