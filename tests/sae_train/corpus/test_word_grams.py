from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np
import pytest

from sae_train.corpus.documents import ChatDocument, Document, TextDocument
from sae_train.corpus.word_grams import WordGrams
from steerd.host.text import ChatMessage


def plain_grams(document: Document, length: int) -> list[tuple[str, ...]]:
    """The rule, word by word."""
    if isinstance(document, TextDocument):
        parts = [document.text]
    else:
        parts = [message.content for message in document.messages if message.role != "system"]
    words = [
        word
        for part in parts
        for word in re.findall(r"[\u0e00-\u0e7f\u4e00-\u9fff]|[a-zé0-9_]+", part.lower())
    ]
    if 0 < len(words) < length:
        return [tuple(words)]
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


def random_documents(seed: int, count: int, words: Sequence[str] = ()) -> list[Document]:
    """Texts and conversations of few different words, so that many grams are shared; some are empty."""
    draw = random.Random(seed)
    words = words or ["a", "B", "é", "a1", "_x", "漢", "ไทย"]

    def text() -> str:
        return "".join(draw.choice(words) + draw.choice(" .\n-") for _ in range(draw.randrange(12)))

    def chat() -> ChatDocument:
        roles = draw.choices(["system", "user", "assistant"], k=draw.randrange(1, 4))
        return ChatDocument(tuple(ChatMessage(role, text()) for role in roles), "chat")

    return [TextDocument(text(), "text") if draw.random() < 0.5 else chat() for _ in range(count)]


@pytest.mark.parametrize("length", [1, 2, 3, 20])
def test_hashes_are_equal_exactly_where_the_words_are(length: int) -> None:
    documents = random_documents(seed=length, count=500)

    grams = WordGrams(length).of(documents)

    plain = [(gram, owner) for owner, d in enumerate(documents) for gram in plain_grams(d, length)]
    assert grams.document.tolist() == [owner for _, owner in plain]
    pairs = {(gram, int(hashed)) for (gram, _), hashed in zip(plain, grams.hashes, strict=True)}
    assert len(pairs) == len({gram for gram, _ in plain}) == len(set(grams.hashes.tolist()))


def test_hashes_do_not_depend_on_the_group_or_on_what_was_hashed_before() -> None:
    """The number was found in another process."""
    documents = random_documents(seed=1, count=50)
    used = WordGrams(3)
    used.of(random_documents(seed=2, count=50))

    together = WordGrams(3).of(documents).hashes
    apart = [used.of([document]).hashes for document in documents]

    assert np.array_equal(together, np.concatenate(apart))
    assert WordGrams(3).of([TextDocument("one two three", "x")]).hashes.tolist() == [17228430048120715207]


def test_no_documents_have_no_grams() -> None:
    for documents in ([], [TextDocument("", "x"), TextDocument("...", "x")]):
        assert len(WordGrams(20).of(documents).hashes) == 0
