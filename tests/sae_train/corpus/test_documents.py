from __future__ import annotations

import pytest
import torch

from sae_train.corpus.documents import ChatDocument, TextDocument, is_held_out, shuffled
from steerd.host.text import ChatMessage


@pytest.mark.parametrize("window", [1, 7, 1000])
def test_shuffling_keeps_every_document_and_follows_the_seed(window: int) -> None:
    documents = [TextDocument(str(i), source="s") for i in range(100)]

    first = list(shuffled(documents, torch.Generator().manual_seed(1), window))
    again = list(shuffled(documents, torch.Generator().manual_seed(1), window))

    assert first == again
    assert sorted(first, key=lambda d: int(d.text)) == documents
    assert (first == documents) == (window == 1)


def test_held_out_documents_are_the_stated_share_and_the_same_each_time() -> None:
    documents = [TextDocument(str(i), source="s") for i in range(2000)]

    chosen = [d for d in documents if is_held_out(d, share=0.1, seed=0)]

    assert 140 < len(chosen) < 260
    assert chosen == [d for d in documents if is_held_out(d, share=0.1, seed=0)]
    assert chosen != [d for d in documents if is_held_out(d, share=0.1, seed=1)]


def test_the_same_content_falls_on_the_same_side_wherever_it_stands() -> None:
    """The split must not move between versions: these sides were drawn when the function was written."""
    sides = [is_held_out(TextDocument(str(i), "a"), share=0.5, seed=0) for i in range(12)]
    moved = [is_held_out(TextDocument(str(i), "b", where="line 9"), share=0.5, seed=0) for i in range(12)]
    chat = ChatDocument((ChatMessage("user", "hi"), ChatMessage("assistant", "yo")), source="talk")

    assert sides == moved
    assert [i for i, side in enumerate(sides) if side] == [2, 5, 6, 9, 11]
    chat_sides = [is_held_out(chat, share=0.5, seed=seed) for seed in range(6)]
    assert chat_sides == [True, True, False, True, False, False]
