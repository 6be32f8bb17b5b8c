"""CompareAnswers as a study: what pushes a right and a wrong answer, and what little makes the right win."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from steerd.engine.steered_forward import SteeredForward
from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Intervention, Target
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.answers.answer_meter import AnswerMeter, Scores
from steerd.studies.answers.control_effects import control_effect
from steerd.studies.answers.flip_search import FlipSearch, Set
from steerd.studies.answers.last_rows import LastRows
from steerd.studies.answers.pushing_features import Predicted, PushingFeatures, ablation
from steerd.studies.answers.result import (
    AnswerComparison,
    AnswerFeature,
    ControlEffect,
    Flip,
    FlipMember,
    Pushes,
)
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
        self._moves: list[Intervention] = []
        self._search: FlipSearch | None = None
        self._scores: dict[Set, Scores] = {}
        self._controls: list[ControlEffect] = []
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
            flip=self._flip(),
            tried=len(self._search.leads) - 1 if self._search else 0,
        )

    def _passes(self) -> Iterator[None]:
        (self._plain,) = yield from self._meter.scores([()])
        yield from self._pushing.run(self._slice_tokens)
        self._predicted = self._pushing.strongest(self._wish.max_features, self._held)
        for first in range(0, len(self._predicted), self._meter.at_once):
            some = self._predicted[first : first + self._meter.at_once]
            self._ablated += yield from self._meter.scores([[ablation(each.feature)] for each in some])
        if self._lead(self._plain) < 0:
            yield from self._look_for_flip()
            yield from self._measure_controls()

    def _look_for_flip(self) -> Iterator[None]:
        assert self._plain is not None
        start = self._lead(self._plain)
        additions = self._pushing.additions(self._wish.additions, self._wish.dose, self._held)
        expected = {addition.intervention: addition.gain for addition in additions}
        ablated = {}
        for predicted, scores in zip(self._predicted, self._ablated, strict=True):
            if max(predicted.gain, self._lead(scores) - start) > 0:
                expected[ablation(predicted.feature)] = predicted.gain
                ablated[ablation(predicted.feature)] = scores
        self._moves = sorted(expected, key=lambda move: -expected[move])
        self._search = FlipSearch(len(self._moves), start, max_moves=self._wish.max_moves, clash=self._clash)
        for move, scores in ablated.items():
            self._scores[frozenset({self._moves.index(move)})] = scores
        self._search.leads |= {tried: self._lead(scores) for tried, scores in self._scores.items()}
        yield from self._search.run(self._try)

    def _try(self, sets: Sequence[Set]) -> Generator[None, None, list[float]]:
        scores = yield from self._meter.scores([self._interventions(each) for each in sets])
        self._scores |= zip(sets, scores, strict=True)
        return [self._lead(each) for each in scores]

    def _measure_controls(self) -> Iterator[None]:
        assert self._search is not None
        if self._search.smallest is None:
            return
        interventions = self._interventions(self._search.smallest)
        for token_ids in self._wish.controls:
            effect = yield from control_effect(self._rows, token_ids, self._wish.steering, interventions)
            self._controls.append(effect)

    def _lead(self, scores: Scores) -> float:
        """By how much the right answer is likelier than the wrong one, or than it was: whichever is less."""
        assert self._plain is not None
        right, wrong = scores
        return min(right.logprob - wrong.logprob, right.logprob - self._plain[0].logprob)

    @property
    def _held(self) -> set[Target]:
        """What is steered already, and cannot be a second time."""
        return {intervention.target for intervention in self._wish.steering.interventions}

    def _clash(self, one: int, other: int) -> bool:
        return self._moves[one].target == self._moves[other].target

    def _interventions(self, chosen: Set) -> list[Intervention]:
        return [self._moves[move] for move in sorted(chosen)]

    def _flip(self) -> Flip | None:
        search = self._search
        if search is None or (chosen := search.smallest) is None:
            return None
        right, wrong = self._scores[chosen]
        return Flip(
            members=tuple(self._member(search, move, chosen) for move in sorted(chosen)),
            right=right,
            wrong=wrong,
            is_minimal=search.is_minimal,
            controls=tuple(self._controls),
        )

    def _member(self, search: FlipSearch, move: int, chosen: Set) -> FlipMember:
        return FlipMember(
            intervention=self._moves[move],
            lead_alone=search.leads.get(frozenset({move})),
            lead_without=search.leads.get(chosen - {move}),
        )

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
