"""CompareAnswers as a study: what pushes a right and a wrong answer, and what little makes the right win."""

from __future__ import annotations

from collections.abc import Iterator

from steerd.engine.steered_forward import SteeredForward
from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.answers.answer_meter import AnswerMeter, Scores
from steerd.studies.answers.flip_tries import FlipTries, lead
from steerd.studies.answers.last_rows import LastRows
from steerd.studies.answers.pushing_features import Predicted, PushingFeatures, ablation
from steerd.studies.answers.result import AnswerComparison, AnswerFeature, Pushes
from steerd.studies.answers.wish import AnswerWish


class ComparingAnswers:
    """A study in four parts: both answers as they are; gradients; each feature ablated; the search.

    What it tells is all measured by real interventions; gradients only choose what is tried.
    """

    def __init__(
        self,
        forward: SteeredForward,
        host: HostModel,
        saes: LoadedSaes,
        wish: AnswerWish,
        *,
        slice_tokens: int,
    ) -> None:
        self._saes = saes
        self._token_texts = tuple(host.tokenizer.batch_decode([[each] for each in wish.prompt_ids]))
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._rows = LastRows(forward, host)
        answers = (wish.right, wish.wrong)
        self._meter = AnswerMeter(
            self._rows, wish.prompt_ids, answers, wish.steering, slice_tokens=slice_tokens
        )
        chosen = [sae for sae in saes if sae.name in wish.saes]
        self._pushing = PushingFeatures(host, chosen, wish.prompt_ids, answers)
        self._plain: Scores | None = None
        self._predicted: list[Predicted] = []
        self._ablated: list[Scores] = []  # of the first of `_predicted`
        self._flips: FlipTries | None = None
        self._complete = False

    def run(self) -> Iterator[Progress]:
        """How long the search takes cannot be known: what is expected is the rest."""
        expected = self._pushing.num_slices(self._slice_tokens)
        expected += self._meter.num_slices(1) + self._meter.num_slices(self._wish.max_features)
        for done, _ in enumerate(self._passes(), start=1):
            yield Progress(done, max(done + 1, expected), "passes")
        self._complete = True

    def result(self) -> AnswerComparison:
        """What is known so far."""
        if self._plain is None:
            return AnswerComparison(complete=False, token_texts=self._token_texts)
        features = [self._told(*each) for each in zip(self._predicted, self._ablated, strict=False)]
        return AnswerComparison(
            complete=self._complete,
            token_texts=self._token_texts,
            right=self._plain[0],
            wrong=self._plain[1],
            features=tuple(sorted(features, key=lambda each: -max(abs(each.right), abs(each.wrong)))),
            flip=self._flips.flip() if self._flips else None,
            tried=self._flips.num_tried if self._flips else 0,
        )

    def _passes(self) -> Iterator[None]:
        (self._plain,) = yield from self._meter.scores([()])
        yield from self._pushing.run(self._slice_tokens)
        held = {intervention.target for intervention in self._wish.steering.interventions}
        self._predicted = self._pushing.strongest(self._wish.max_features, held)
        for first in range(0, len(self._predicted), self._meter.at_once):
            some = self._predicted[first : first + self._meter.at_once]
            self._ablated += yield from self._meter.scores([[ablation(each.feature)] for each in some])
        right, wrong = self._plain
        if right.logprob < wrong.logprob:
            self._flips = flips = self._tries(self._plain)
            yield from flips.run()

    def _tries(self, plain: Scores) -> FlipTries:
        """What may help: ablations that are expected to, or did, and additions; the most promising first."""
        wish = self._wish
        held = {intervention.target for intervention in wish.steering.interventions}
        additions = self._pushing.additions(wish.additions, wish.dose, held)
        expected = {addition.intervention: addition.gain for addition in additions}
        known = {}
        for predicted, scores in zip(self._predicted, self._ablated, strict=True):
            if predicted.gain > 0 or lead(scores, plain) > lead(plain, plain):
                expected[ablation(predicted.feature)] = predicted.gain
                known[ablation(predicted.feature)] = scores
        moves = sorted(expected, key=lambda move: -expected[move])
        return FlipTries(self._meter, self._rows, self._saes, wish, plain, moves, known)

    def _told(self, predicted: Predicted, ablated: Scores) -> AnswerFeature:
        assert self._plain is not None
        right, wrong = (plain.logit - now.logit for plain, now in zip(self._plain, ablated, strict=True))
        return AnswerFeature(
            feature=predicted.feature,
            label=self._saes.get(predicted.feature.sae).label(predicted.feature.index),
            activation=predicted.activation,
            position=predicted.position,
            predicted_right=predicted.right,
            predicted_wrong=predicted.wrong,
            right=right,
            wrong=wrong,
            pushes=self._pushes(right, wrong),
        )

    def _pushes(self, right: float, wrong: float) -> Pushes:
        least = self._wish.min_effect
        match right >= least, wrong >= least:
            case True, True:
                return "both"
            case True, False:
                return "right"
            case False, True:
                return "wrong"
            case _:
                return "neither"
