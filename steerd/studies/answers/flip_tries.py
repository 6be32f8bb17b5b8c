"""What was really tried to make the right answer win, and the flip that is told of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from math import inf

from steerd.errors import Forbidden
from steerd.steering.intervention import FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.answers.answer_meter import AnswerMeter, Scores
from steerd.studies.answers.control_effects import control_effect
from steerd.studies.answers.flip_search import FlipSearch, Set
from steerd.studies.answers.last_rows import LastRows
from steerd.studies.answers.operator_rules import OperatorRules
from steerd.studies.answers.result import ControlEffect, Flip, FlipMember
from steerd.studies.answers.wish import AnswerWish

_WEIGHED = 4  # flips of the same size, of which the one that does least to the control texts is told


def lead(scores: Scores | None, plain: Scores) -> float:
    """By how many nats the right answer is likelier than the wrong one, or than it was, the smaller of both.

    Below 0 it does not lead. What breaks both answers makes neither the winner, nor does what is refused.
    """
    if scores is None:
        return -inf
    right, wrong = scores
    return min(right.logprob - wrong.logprob, right.logprob - plain[0].logprob)


class FlipTries:
    """Tries sets of moves until one is found that cannot be smaller, then weighs those of its size."""

    def __init__(
        self,
        meter: AnswerMeter,
        rows: LastRows,
        saes: LoadedSaes,
        wish: AnswerWish,
        plain: Scores,
        moves: Sequence[Intervention],
        known: Mapping[Intervention, Scores],
        rules: OperatorRules,
    ) -> None:
        """`moves`, the most promising first, all within the `rules`, of which the scores of some are `known`;
        `plain` without any."""
        self._meter = meter
        self._rows = rows
        self._saes = saes
        self._wish = wish
        self._plain = plain
        self._moves = moves
        self._rules = rules
        self._search = FlipSearch(
            len(moves), lead(plain, plain), max_moves=wish.max_moves, may_make=self._may_make
        )
        self._scores: dict[Set, Scores] = {}
        self._controls: dict[Set, list[ControlEffect]] = {}
        self._keep([frozenset({moves.index(move)}) for move in known], list(known.values()))

    @property
    def num_tried(self) -> int:
        """How many sets were tried."""
        return len(self._search.leads) - 1

    def run(self) -> Iterator[None]:
        """Search, then measure side effects; each yield ends a slice."""
        yield from self._search.run(self._try)
        for chosen in filter(self._search.is_minimal, self._search.flips[:_WEIGHED]):
            interventions = self._interventions(chosen)
            effects = []
            try:
                for text in self._wish.controls:
                    effects.append((yield from control_effect(self._rows, text, interventions)))
            except Forbidden as error:
                self._rules.leave_out(interventions, f"on a control text: {error}")
                self._search.leads[chosen] = -inf
            else:
                self._controls[chosen] = effects

    def flip(self) -> Flip | None:
        """Of the smallest sets the one that does least elsewhere, or leads most while that is not known."""
        chosen = min(self._controls, key=self._divergence, default=self._search.smallest)
        if chosen is None:
            return None
        right, wrong = self._scores[chosen]
        return Flip(
            members=tuple(self._member(move, chosen) for move in sorted(chosen)),
            right=right,
            wrong=wrong,
            is_minimal=self._search.is_minimal(chosen),
            controls=tuple(self._controls.get(chosen, ())),
        )

    def _try(self, sets: Sequence[Set]) -> Generator[None, None, list[float]]:
        scores = yield from self._meter.scores([self._interventions(each) for each in sets])
        self._keep(sets, scores)
        return [self._search.leads[each] for each in sets]

    def _keep(self, sets: Sequence[Set], scores: Sequence[Scores | None]) -> None:
        for tried, found in zip(sets, scores, strict=True):
            self._search.leads[tried] = lead(found, self._plain)
            if found is not None:
                self._scores[tried] = found

    def _divergence(self, chosen: Set) -> float:
        return sum(effect.mean_kl for effect in self._controls[chosen])

    def _may_make(self, chosen: Set) -> bool:
        interventions = self._interventions(chosen)
        targets = {each.target for each in interventions}
        return len(targets) == len(interventions) and self._rules.allow(interventions)

    def _interventions(self, chosen: Set) -> list[Intervention]:
        return [self._moves[move] for move in sorted(chosen)]

    def _member(self, move: int, chosen: Set) -> FlipMember:
        target = self._moves[move].target
        assert isinstance(target, FeatureRef)
        return FlipMember(
            intervention=self._moves[move],
            label=self._saes.get(target.sae).label(target.index),
            lead_alone=self._search.leads.get(frozenset({move})),
            lead_without=self._search.leads.get(chosen - {move}),
        )
