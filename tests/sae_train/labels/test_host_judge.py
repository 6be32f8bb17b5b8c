"""The host as a judge, against one plain forward a question."""

from __future__ import annotations

import pytest
import torch

from sae_train.labels.host_judge import HostJudge
from sae_train.labels.judge import JudgeError, Question
from sae_train.labels.prompts import yes_or_no_question
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat
from tests.tiny_hosts import make_tiny_host


@pytest.fixture(scope="module")
def host() -> HostModel:
    return make_tiny_host("llama", max_position_embeddings=2048)


def test_yes_goes_to_the_half_of_the_texts_for_which_it_is_likeliest(
    host: HostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_train.labels.host_judge._BATCH_TOKENS", 1500)
    texts = ["word " * (number % 4) + str(number) for number in range(7)]

    told = HostJudge(host).applies(Question("detection", "numbers", texts))

    leanings = []
    for text in texts:
        ids = torch.tensor([encode_chat(host.tokenizer, yes_or_no_question("detection", "numbers", text))])
        logits = host.model(ids).logits[0, -1]
        leanings.append(float(logits[ord("Y")] - logits[ord("N")]))
    assert told == [leaning in sorted(leanings)[-3:] for leaning in leanings]


def test_an_answer_is_the_likeliest_text(host: HostModel) -> None:
    messages = [ChatMessage("user", "Say something")]

    said = HostJudge(host).answer(messages)

    ids = encode_chat(host.tokenizer, messages)
    before = len(ids)
    while len(ids) < before + 40:
        token_id = int(host.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token_id in host.eos_token_ids:
            break
        ids.append(token_id)
    assert said == host.tokenizer.decode(ids[before:], skip_special_tokens=True)


def test_a_host_that_cannot_be_asked_says_so() -> None:
    short = make_tiny_host("llama", max_position_embeddings=64)
    short.max_context = 64
    with pytest.raises(JudgeError, match="reads 64 tokens; a question has"):
        HostJudge(short).applies(Question("fuzzing", "x", ["a"]))

    mute = make_tiny_host("llama")
    mute.tokenizer.chat_template = None
    with pytest.raises(JudgeError, match="no chat template"):
        HostJudge(mute)


def test_no_texts_need_no_answer(host: HostModel) -> None:
    assert HostJudge(host).applies(Question("fuzzing", "x", [])) == []
