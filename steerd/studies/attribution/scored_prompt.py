"""Forwards of a prompt whose rows may be replaced on the way, and the metric that comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.known_streams import KnownStreams
from steerd.studies.attribution.metric import AnswerLogit, AnswerLogprob, Metric, TokenLogit, answers_of

Edit = Callable[[Tensor], Tensor]
"""Rows of the prompt [copies, texts, tokens, d_model], of at least float32 -> what takes their place."""


class ScoredPrompt:
    """A prompt as the host runs it to know a metric.

    There is one text for each answer, the prompt and what is given after it; a TokenLogit needs one text, the
    prompt alone. The prompt is the same in all texts, and so is what is done to its rows. Copies of the texts
    are run at once, each with edits of its own. Answers are padded on the right, which no earlier row sees.
    Layers before the first edit do the same in every forward, and are run once only.
    """

    def __init__(self, host: HostModel, prompt_ids: Sequence[int], metric: Metric) -> None:
        self.host = host
        self.prompt_ids = tuple(prompt_ids)
        self._metric = metric
        texts = [[*prompt_ids, *answer[:-1]] for answer in _scored(metric)]  # the last token predicts nothing
        longest = max(map(len, texts))
        padded = [text + text[-1:] * (longest - len(text)) for text in texts]
        self._ids = torch.tensor(padded, dtype=torch.long)  # [texts, seq]
        self._num_scored = longest - len(self.prompt_ids) + 1  # rows whose logits the metric reads, the last
        self._streams = KnownStreams(host)

    @property
    def num_rows(self) -> int:
        """Rows that one copy costs in a forward."""
        return self._ids.numel()

    def values(self, copies: int, edits: Mapping[HookPoint, Edit]) -> Tensor:
        """The metric of each copy, [copies], of a forward with these edits."""
        return self.values_of(self.logits(copies, edits))

    def logits(self, copies: int, edits: Mapping[HookPoint, Edit]) -> Tensor:
        """Logits [copies, texts, scored, vocab], at least float32, of a forward with these edits.

        Scored are the prompt's last row and those after it.
        """
        ids = self._ids.repeat(copies, 1)
        with ExitStack() as stack:
            stack.enter_context(self._streams.begin(edits, ids))
            for hook_point, edit in edits.items():
                handle = self.host.attach(hook_point, partial(self._edited, copies, edit))
                stack.callback(handle.remove)
            logits = _float32(self.host.logits(ids, None, last=self._num_scored))
        return logits.view(copies, len(self._ids), self._num_scored, -1)

    def values_of(self, logits: Tensor) -> Tensor:
        """The metric [copies] of logits [copies, texts, scored, vocab]."""
        match self._metric:
            case TokenLogit(target, against):
                here = logits[:, 0, 0]
                return here[:, target] if against is None else here[:, target] - here[:, against]
            case AnswerLogprob():
                answers = _scored(self._metric)
                sums = [_logprob(logits[:, text], answer) for text, answer in enumerate(answers)]
                return sums[0] if len(sums) == 1 else sums[0] - sums[1]
            case AnswerLogit(target):
                here = logits[:, 0]
                return _summed(here - here.mean(dim=-1, keepdim=True), target)

    def probability(self, logits: Tensor) -> float:
        """Of the target's first token, by logits [copies, texts, scored, vocab] of the first copy."""
        first = _scored(self._metric)[0][0]
        return float(logits[0, 0, 0].softmax(dim=-1)[first])

    def _edited(self, copies: int, edit: Edit, rows: Tensor) -> Tensor:
        texts = _float32(rows).view(copies, *self._ids.shape, -1)
        length = len(self.prompt_ids)
        edited = edit(texts[:, :, :length])
        if length < self._ids.shape[1]:
            edited = torch.cat([edited, texts[:, :, length:]], dim=2)
        return edited.to(rows.dtype).reshape(rows.shape)


def _float32(x: Tensor) -> Tensor:
    """In float32, unless it is more precise already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _scored(metric: Metric) -> tuple[tuple[int, ...], ...]:
    """Of each text the tokens that are scored; two single tokens are scored by one."""
    answers = answers_of(metric)
    return answers[:1] if isinstance(metric, TokenLogit) else answers


def _logprob(logits: Tensor, answer: Sequence[int]) -> Tensor:
    """Summed log-probability [copies] of an answer by logits [copies, seq, vocab] from its first token on."""
    return _summed(logits[:, : len(answer)].log_softmax(dim=-1), answer)


def _summed(scores: Tensor, answer: Sequence[int]) -> Tensor:
    """The scores [copies, seq, vocab] of an answer's tokens, from its first one on, summed: [copies]."""
    index = torch.tensor(answer, device=scores.device).expand(len(scores), -1).unsqueeze(-1)
    return scores[:, : len(answer)].gather(-1, index).squeeze(-1).sum(dim=-1)
