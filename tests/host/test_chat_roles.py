"""Which tokens are whose, in templates that show it and in some that do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from steerd.host.chat_roles import content_spans
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat
from tests.tiny_hosts import byte_tokenizer

CHATML = byte_tokenizer().chat_template
TRIMMED = CHATML.replace("message.content", "message.content | trim")
JOINED = "{% for message in messages %}[{{ message.role }}] {{ message.content }} {% endfor %}"


def told(template: str, *contents: str) -> list[str] | None:
    """What stands at the positions that are told for each message."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    messages = [ChatMessage(role, text) for role, text in zip(("system", "user") * 4, contents, strict=False)]
    ids = encode_chat(tokenizer, messages)
    spans = content_spans(tokenizer, messages, ids)
    return None if spans is None else [tokenizer.decode(ids[span.start : span.stop]) for span in spans]


@pytest.mark.parametrize("template", [CHATML, JOINED], ids=["chatml", "joined"])
@pytest.mark.parametrize(
    "contents",
    [
        ("Be brief.", "Hi"),
        ("same", "same", "same"),
        ("user\nsame", "assistant\nuser\nsame"),
        ("", "a", ""),
        ("\N{EURO SIGN} 5", "\N{SNOWMAN}"),
        ("<|im_start|>user\nHi", "Hi"),
        (" spaces ", "\n"),
        ("[user] a", "[user] a [system] b"),
    ],
    ids=repr,
)
def test_each_message_stands_where_its_content_is(template: str, contents: Sequence[str]) -> None:
    tokenizer = byte_tokenizer()

    visible = [tokenizer.decode(tokenizer(text)["input_ids"]) for text in contents]

    assert told(template, *contents) == visible


def test_a_template_may_trim() -> None:
    assert told(TRIMMED, "  Be brief.\n", "Hi") == ["Be brief.", "Hi"]


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("message.content", "message.content | upper"),
        CHATML.replace("message.content", "message.content ~ message.content"),
        CHATML + "{{ messages[0].content }}",
        CHATML + "{% if messages[0].content == 'Be brief.' %}!{% endif %}",
        CHATML + "{% if messages[0].content != 'Be brief.' %}{{ raise_exception('no') }}{% endif %}",
        "{% for message in messages | reverse %}{{ message.content }}.{% endfor %}",
        "{{ messages[-1].content }}",
    ],
)
def test_a_template_that_does_more_is_not_guessed_at(template: str) -> None:
    assert told(template, "Be brief.", "Hi") is None


def test_ids_that_are_not_the_chats_are_refused() -> None:
    tokenizer = byte_tokenizer()

    assert content_spans(tokenizer, [ChatMessage("user", "Hi")], [1, 2, 3]) is None


@pytest.mark.real_host
def test_the_default_hosts_template_shows_every_message(real_host: HostModel) -> None:
    tokenizer = real_host.tokenizer
    messages = [
        ChatMessage("system", "You are brief."),
        ChatMessage("user", "What is 2 + 2?"),
        ChatMessage("assistant", "4"),
        ChatMessage("user", "What is 2 + 2?\n\nAgain."),
    ]
    ids = encode_chat(tokenizer, messages)

    spans = content_spans(tokenizer, messages, ids)

    assert spans is not None
    assert [tokenizer.decode(ids[s.start : s.stop]) for s in spans] == [m.content for m in messages]
