"""The host itself as a judge: by what it holds likelier to answer, Yes or No."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_train.labels.judge import JudgeError, Question
from sae_train.labels.prompts import yes_or_no_question
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat, encode_continuation

_BATCH_TOKENS = 4096
_MOST_ANSWER_TOKENS = 40


class HostJudge:
    """Reads each text alone, and says Yes to the half for which Yes is likeliest against No.

    A small model leans to one of the two whatever is asked. As half of the contexts that a label is tested on
    have the feature active, the median of its leanings is the fair place to part them: a judge that cannot
    tell them apart is right half of the time.
    """

    name = "host"
    parallel = 1

    def __init__(self, host: HostModel) -> None:
        """Raises JudgeError for a host that cannot chat."""
        if not host.has_chat_template:
            raise JudgeError(f"host {host.name} has no chat template, so it cannot be asked")
        self._host = host
        self._yes, self._no = (encode_continuation(host.tokenizer, word)[0] for word in ("Yes", "No"))

    def applies(self, question: Question) -> list[bool | None]:
        """Say Yes to the likelier half."""
        if not question.texts:
            return []
        prompts = [
            self._prompt(yes_or_no_question(question.task, question.label, text)) for text in question.texts
        ]
        leanings = self._leanings(prompts)
        order = torch.argsort(leanings, descending=True, stable=True)
        likelier = set(order[: len(order) // 2].tolist())
        return [place in likelier for place in range(len(prompts))]

    def answer(self, messages: Sequence[ChatMessage]) -> str:
        """Return the likeliest answer, token by token."""
        ids = self._prompt(messages)
        said: list[int] = []
        while len(said) < _MOST_ANSWER_TOKENS:
            token_id = int(self._last_logits([[*ids, *said]])[0].argmax())
            if token_id in self._host.eos_token_ids:
                break
            said.append(token_id)
        return str(self._host.tokenizer.decode(said, skip_special_tokens=True))

    def _prompt(self, messages: Sequence[ChatMessage]) -> list[int]:
        ids = encode_chat(self._host.tokenizer, messages)
        if len(ids) + _MOST_ANSWER_TOKENS > self._host.max_context:
            raise JudgeError(
                f"host {self._host.name} reads {self._host.max_context} tokens; a question has {len(ids)}"
            )
        return ids

    def _leanings(self, prompts: Sequence[list[int]]) -> Tensor:
        """How much likelier Yes is than No after each prompt, [prompts], in nats."""
        found = torch.zeros(len(prompts))
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        while order:
            longest = len(prompts[order[-1]])
            count = max(1, _BATCH_TOKENS // longest)
            batch, order = order[-count:], order[:-count]
            logits = self._last_logits([prompts[place] for place in batch])
            found[batch] = (logits[:, self._yes] - logits[:, self._no]).cpu()
        return found

    def _last_logits(self, prompts: Sequence[list[int]]) -> Tensor:
        """The logits [prompts, vocab] of what follows each."""
        longest = max(map(len, prompts))
        input_ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in prompts])
        lengths = torch.tensor([len(ids) for ids in prompts])
        mask = (torch.arange(longest) < lengths.unsqueeze(1)).long()
        last_layer = HookPoint(self._host.num_layers - 1, "resid_post")
        rows = self._host.activations(input_ids, mask, [last_layer])[last_layer]
        return self._host.unembed(rows[torch.arange(len(prompts)), lengths - 1])  # of each its last row
