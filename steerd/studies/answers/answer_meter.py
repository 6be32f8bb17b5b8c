"""How likely two answers are under sets of interventions, all really made."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredText
from steerd.errors import Forbidden
from steerd.steering.intervention import Intervention
from steerd.steering.steering import Steering
from steerd.studies.answers.last_rows import LastRows
from steerd.studies.answers.operator_rules import OperatorRules
from steerd.studies.answers.result import AnswerScore

Scores = tuple[AnswerScore, ...]  # of each answer


class AnswerMeter:
    """Scores answers to one prompt under `steering` and what is tried with it.

    Interventions are made as Generate makes them, on the prompt's rows and on the answer's. Answers that
    differ in their last token only, as those of one token do, share their forwards. Sets that make a policy
    end the text are left out, by `rules`.
    """

    def __init__(
        self,
        rows: LastRows,
        prompt_ids: tuple[int, ...],
        answers: Sequence[tuple[int, ...]],
        steering: Steering,
        rules: OperatorRules,
        *,
        slice_tokens: int,
    ) -> None:
        self._rows = rows
        self._prompt_ids = prompt_ids
        self._answers = tuple(answers)
        self._steering = steering
        self._rules = rules
        self.at_once = max(slice_tokens // (len(prompt_ids) + max(map(len, answers)) - 1), 1)
        """Sets of one forward."""

    def num_slices(self, num_sets: int) -> int:
        """How many slices the scores of so many sets take."""
        by_given = {answer[:-1]: len(answer) for answer in self._answers}
        forwards = -(-num_sets // self.at_once)
        return sum(forwards + self._rows.num_slices(num_sets * length) for length in by_given.values())

    def plain(self) -> Generator[None, None, Scores]:
        """The scores of the answers in their order, with nothing tried.

        Each yield ends a slice. Raises Forbidden where a policy ends the text.
        """
        (scores,) = yield from self.scores([()])
        assert scores is not None  # otherwise Forbidden was raised
        return scores

    def scores(self, sets: Sequence[Sequence[Intervention]]) -> Generator[None, None, list[Scores | None]]:
        """By set, the scores of the answers in their order, None of one that is refused; each yield ends a
        slice."""
        columns: dict[int, list[AnswerScore | None]] = {}
        for given in {answer[:-1] for answer in self._answers}:
            numbers = [number for number, answer in enumerate(self._answers) if answer[:-1] == given]
            found = yield from self._after(given, [self._answers[number] for number in numbers], sets)
            columns.update(zip(numbers, found, strict=True))
        every = zip(*(columns[number] for number in range(len(self._answers))), strict=True)
        return [_all_or_none(scores) for scores in every]

    def _after(
        self,
        given: tuple[int, ...],
        answers: Sequence[tuple[int, ...]],
        sets: Sequence[Sequence[Intervention]],
    ) -> Generator[None, None, list[list[AnswerScore | None]]]:
        """Scores by answer and set, of answers that all begin with the given ids."""
        found: list[list[AnswerScore | None]] = [[None] * len(sets) for _ in answers]
        for first in range(0, len(sets), self.at_once):
            for numbers, rows in self._ran(given, sets, range(len(sets))[first : first + self.at_once]):
                yield
                here = rows[:, len(self._prompt_ids) - 1 :]  # [sets, answer, d_model]
                summed = yield from self._summed(here.flatten(0, 1), torch.tensor(answers), len(numbers))
                for scores, of_sets in zip(found, summed.tolist(), strict=True):
                    for number, (logprob, logit) in zip(numbers, of_sets, strict=True):
                        scores[number] = AnswerScore(logprob, logit, len(given) + 1)
        return found

    def _ran(
        self, given: tuple[int, ...], sets: Sequence[Sequence[Intervention]], numbers: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Forwards, together or, where a policy refuses one of the sets, each by itself: which sets, rows."""
        try:
            rows = self._rows.of([self._text(given, sets[number]) for number in numbers])
        except Forbidden as error:
            if any(not sets[number] for number in numbers):
                raise
            if len(numbers) == 1:
                self._rules.leave_out(sets[numbers[0]], str(error))
                return
        else:
            yield numbers, rows
            return
        for number in numbers:
            yield from self._ran(given, sets, [number])

    def _summed(self, rows: Tensor, answers: Tensor, num_sets: int) -> Generator[None, None, Tensor]:
        """Log-probability and logit [answers, sets, 2] of answers [answers, tokens] by rows
        [sets * tokens, d_model]."""
        ids = answers.to(rows.device).repeat(1, num_sets)  # [answers, rows]
        parts, done = [], 0
        for logits in self._rows.logits(rows):
            chosen = logits.gather(1, ids[:, done : done + len(logits)].T).T  # [answers, some]
            parts.append(torch.stack([chosen - logits.logsumexp(dim=1), chosen - logits.mean(dim=1)], dim=-1))
            done += len(logits)
            yield
        each = torch.cat(parts, dim=1)  # [answers, rows, 2]
        return each.view(len(answers), num_sets, -1, 2).sum(dim=2)

    def _text(self, given: tuple[int, ...], interventions: Sequence[Intervention]) -> SteeredText:
        steering = replace(self._steering, interventions=(*self._steering.interventions, *interventions))
        return SteeredText(prompt_ids=self._prompt_ids, continuation=given, steering=steering)


def _all_or_none(scores: tuple[AnswerScore | None, ...]) -> Scores | None:
    """The scores, if there is one of each answer."""
    found = tuple(score for score in scores if score is not None)
    return found if len(found) == len(scores) else None
