from __future__ import annotations

import pytest

from sae_train.corpus.chat_templates import render_chat
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import ChatDocument, CorpusError
from sae_train.corpus.token_blocks import TokenBlock, fast_blocks
from steerd.host.text import ChatMessage
from tests.sae_train.corpus.tokenizers import STRICT_TEMPLATE, word_tokenizer

GOOD = ("user", "assistant")


def chat(*roles: str, where: str = "talk.jsonl, line 7") -> ChatDocument:
    return ChatDocument(tuple(ChatMessage(role, f"by {role}") for role in roles), "talk", where=where)


@pytest.mark.parametrize(
    ("template", "roles", "message"),
    [
        (STRICT_TEMPLATE, ("user", "user"), "roles must alternate user/assistant/user/assistant/..."),
        (STRICT_TEMPLATE, ("system", "user"), "the roles are 'system', 'user'"),
        (STRICT_TEMPLATE, ("user", "system"), "refused by the host's chat template"),
        ("{{ messages[0].content + 1 }}", GOOD, "refused by the host's chat template: can only concatenate"),
        ("{{ messages[5].content.strip() }}", GOOD, "refused by the host's chat template: "),
        ("{% for message in messages %}", GOOD, "refused by the host's chat template: Unexpected end"),
        ("{{ messages | ", GOOD, "refused by the host's chat template: "),
        ("{% if false %}{{ messages }}{% endif %}\n", GOOD, "the host's chat template writes nothing"),
    ],
)
def test_what_a_template_does_wrong_is_said_with_the_line(
    template: str, roles: tuple[str, ...], message: str
) -> None:
    tokenizer = word_tokenizer(template)

    with pytest.raises(CorpusError) as caught:
        render_chat(tokenizer, chat(*roles))

    assert str(caught.value).startswith("talk.jsonl, line 7: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("template", [None, ""])
def test_a_host_without_a_template_is_an_error_whatever_the_policy(template: str | None) -> None:
    with pytest.raises(CorpusError, match="line 7: a conversation needs a chat template"):
        list(fast_blocks([chat(*GOOD)], word_tokenizer(template), context=50, on_bad_line="skip"))


def blocks_of(documents: list[ChatDocument], counts: CorpusCounts) -> list[TokenBlock]:
    return list(fast_blocks(documents, word_tokenizer(), context=50, on_bad_line="skip", counts=counts))


def test_refused_conversations_are_counted_where_the_source_says_so() -> None:
    documents = [
        chat("user", "user", where="line 1"),
        chat(*GOOD),
        chat("system", where="line 3"),
        chat(*GOOD),
    ]
    counts = CorpusCounts()

    blocks = blocks_of(documents, counts)

    assert blocks == blocks_of([chat(*GOOD)], CorpusCounts()) * 2
    assert counts.of("talk").documents == 2
    assert counts.of("talk").skipped == {"refused by the chat template": 2}
    assert counts.examples["refused by the chat template"].startswith("line 1: refused by the host's")
    with pytest.raises(CorpusError, match="line 1: refused"):
        list(fast_blocks(documents, word_tokenizer(), context=50))
