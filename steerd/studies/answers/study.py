"""CompareAnswers as a study: what pushes a right and a wrong answer, and what little makes the right win."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.receipt import NO_RECEIPT
from steerd.studies.answers.answer_meter import AnswerMeter, Scores
from steerd.studies.answers.flip_tries import FlipTries, lead
from steerd.studies.answers.last_rows import LastRows
from steerd.studies.answers.operator_rules import OperatorRules, Refusal
from steerd.studies.answers.pushing_features import Addition, Predicted, PushingFeatures
from steerd.studies.answers.result import AnswerComparison, AnswerFeature, Pushes
from steerd.studies.answers.wish import AnswerWish
from steerd.studies.applied_steering import applied
from steerd.studies.attribution.metric import AnswerLogit, AnswerLogprob


class ComparingAnswers:
    """A study in four parts: both answers as they are; gradients; each feature ablated; the search.

    What it tells is all measured by real interventions; gradients only choose what is tried. Nothing is tried
    that the operator's rules do not allow besides what steers the text.
    """

    def __init__(
        self,
        forward: SteeredForward,
        host: HostModel,
        saes: LoadedSaes,
        wish: AnswerWish,
        refusal: Refusal,
        *,
        slice_tokens: int,
    ) -> None:
        self._rules = OperatorRules(refusal)
        self._saes = saes
        self._token_texts = tuple(host.tokenizer.batch_decode([[each] for each in wish.prompt_ids]))
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._rows = LastRows(forward, host)
        answers = (wish.right, wish.wrong)
        self._meter = AnswerMeter(
            self._rows, wish.prompt_ids, answers, wish.steering, self._rules, slice_tokens=slice_tokens
        )
        chosen = [sae for sae in saes if sae.name in wish.saes]
        metric = AnswerLogprob if wish.is_long else AnswerLogit
        metrics = (metric(wish.right), metric(wish.wrong))
        self._pushing = PushingFeatures(host, chosen, wish.prompt_ids, metrics)
        self._receipt = NO_RECEIPT
        self._plain: Scores | None = None
        self._predicted: list[Predicted] = []
        self._ablated: list[Scores | None] = []  # of the first of `_predicted`
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
        steering = applied(self._wish.steering, self._wish.plan_hash, self._receipt)
        if self._plain is None:
            return AnswerComparison(complete=False, token_texts=self._token_texts, steering=steering)
        return AnswerComparison(
            complete=self._complete,
            token_texts=self._token_texts,
            right=self._plain[0],
            wrong=self._plain[1],
            features=tuple(self._features(self._plain)),
            flip=self._flips.flip() if self._flips else None,
            tried=self._flips.num_tried if self._flips else 0,
            steering=steering,
            left_out=self._rules.left_out,
        )

    def _passes(self) -> Iterator[None]:
        wish = self._wish
        if wish.steering.interventions:
            longer = max(wish.right, wish.wrong, key=len)[:-1]
            self._receipt = self._rows.receipt(
                SteeredText(prompt_ids=wish.prompt_ids, continuation=longer, steering=wish.steering)
            )
            yield
        self._plain = plain = yield from self._meter.plain()
        yield from self._pushing.run(self._slice_tokens)
        held = {intervention.target for intervention in wish.steering.interventions}
        active = (each for each in self._pushing.strongest() if each.feature not in held)
        self._predicted = yield from self._rules.first_allowed(active, wish.max_features)
        for first in range(0, len(self._predicted), self._meter.at_once):
            some = self._predicted[first : first + self._meter.at_once]
            self._ablated += yield from self._meter.scores([[each.intervention] for each in some])
        right, wrong = plain
        if right.logprob < wrong.logprob:
            every = self._pushing.additions(wish.dose)
            addable = (each for each in every if each.intervention.target not in held)
            additions = yield from self._rules.first_allowed(addable, wish.additions)
            self._flips = flips = self._tries(plain, additions)
            yield from flips.run()

    def _tries(self, plain: Scores, additions: Iterable[Addition]) -> FlipTries:
        """What may help: ablations that are expected to, or did, and additions; the most promising first."""
        expected = {addition.intervention: addition.gain for addition in additions}
        known = {}
        for predicted, scores in zip(self._predicted, self._ablated, strict=True):
            helps = predicted.gain > 0 or lead(scores, plain) > lead(plain, plain)
            if scores is not None and helps:
                expected[predicted.intervention] = predicted.gain
                known[predicted.intervention] = scores
        moves = sorted(expected, key=lambda move: -expected[move])
        wish, rules = self._wish, self._rules
        return FlipTries(self._meter, self._rows, self._saes, wish, plain, moves, known, rules)

    def _features(self, plain: Scores) -> list[AnswerFeature]:
        """What was ablated so far, by falling effect."""
        found = [
            self._told(predicted, plain, ablated)
            for predicted, ablated in zip(self._predicted, self._ablated, strict=False)
            if ablated is not None
        ]
        return sorted(found, key=lambda each: -max(map(abs, self._counted(each))))

    def _counted(self, found: AnswerFeature) -> tuple[float, float]:
        """By how much both answers fall, in what counts for answers as long."""
        if self._wish.is_long:
            return found.right_logprob, found.wrong_logprob
        return found.right, found.wrong

    def _told(self, predicted: Predicted, plain: Scores, ablated: Scores) -> AnswerFeature:
        right, wrong = (before.logit - now.logit for before, now in zip(plain, ablated, strict=True))
        logprobs = [before.logprob - now.logprob for before, now in zip(plain, ablated, strict=True)]
        told = AnswerFeature(
            feature=predicted.feature,
            label=self._saes.get(predicted.feature.sae).label(predicted.feature.index),
            activation=predicted.activation,
            position=predicted.position,
            predicted_right=predicted.right,
            predicted_wrong=predicted.wrong,
            right=right,
            wrong=wrong,
            right_logprob=logprobs[0],
            wrong_logprob=logprobs[1],
            pushes="neither",
        )
        return replace(told, pushes=self._pushes(*self._counted(told)))

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
