"""CompareAnswers finds the planted features and the planted flips, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from steerd.engine.steered_forward import SteeredForward
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Set
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Phase, Scope
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlanner
from steerd.studies.answers.operator_rules import Refusal
from steerd.studies.answers.pushing_features import PushingFeatures, ablation
from steerd.studies.answers.result import AnswerComparison
from steerd.studies.answers.study import ComparingAnswers
from steerd.studies.answers.wish import AnswerWish, ControlText
from steerd.studies.attribution.metric import AnswerLogprob
from tests.planted_host import EARLY, FEATURES, LATE, LOGITS, PUSHES, make_planted_host, planted_saes

QUESTION = "x+AB*EFS?"  # Z wins, for which either of E and F is enough
PLANTED = {ref: name for name, ref in FEATURES.items()}


class Planted:
    """The planted host with the hooks of an engine."""

    def __init__(self) -> None:
        self.host: HostModel = make_planted_host()
        self.saes: LoadedSaes = planted_saes(self.host)
        self.planner = StepPlanner(self.host, self.saes, 0)

    def compare(
        self,
        text: str = QUESTION,
        *,
        slices: int | None = None,
        refusal: Refusal = lambda _interventions: None,
        **changes: Any,
    ) -> AnswerComparison:
        forward = SteeredForward(self.host, self.planner)
        wish = wish_for(text, **changes)
        study = ComparingAnswers(forward, self.host, self.saes, wish, refusal, slice_tokens=64)
        with torch.inference_mode(), self.planner.at_rest():
            for number, _ in enumerate(study.run(), start=1):
                if number == slices:
                    break
        return study.result()


@pytest.fixture(scope="module")
def planted() -> Iterator[Planted]:
    made = Planted()
    yield made
    made.planner.close()


def wish_for(text: str, **changes: Any) -> AnswerWish:
    values: dict[str, Any] = {
        "right": tuple(b"Y"),
        "wrong": tuple(b"Z"),
        "saes": (EARLY, LATE),
        "steering": Steering(),
        "plan_hash": "",
        "max_features": 32,
        "additions": 0,
        "dose": 0.5,
        "max_moves": 6,
        "min_effect": 0.1,
        "controls": (),
    }
    return AnswerWish(prompt_ids=tuple(text.encode()), **(values | changes))


def control(text: str, steering: Steering | None = None) -> ControlText:
    return ControlText(tuple(text.encode()), steering or Steering())


def plain_scores(
    planted: Planted, text: str, answer: str, interventions: Sequence[Intervention] = ()
) -> tuple[float, float]:
    """Log-probability and logit over the mean, by plain hooks on one text alone."""

    def hook_of(edits: list[Intervention]) -> Any:
        def edit(rows: torch.Tensor) -> torch.Tensor:
            edited = rows.clone()
            for each in edits:
                sae = planted.saes.get(each.target.sae).sae
                z = sae.encode(rows[1:])[:, each.target.index, None]
                amount = -z if isinstance(each.operation, Ablate) else each.operation.strength
                edited[1:] += amount * sae.W_dec[each.target.index]
            return edited

        return edit

    by_point: dict[Any, list[Intervention]] = {}
    for each in interventions:
        by_point.setdefault(planted.saes.hook_point(each.target), []).append(each)
    handles = [planted.host.attach(point, hook_of(edits)) for point, edits in by_point.items()]
    with torch.no_grad():
        logits = planted.host.model(input_ids=torch.tensor([list((text + answer).encode())])).logits[0]
    for handle in handles:
        handle.remove()
    before = logits[len(text) - 1 : -1].double()
    chosen = before[range(len(answer)), list(answer.encode())]
    logprob = (chosen - before.logsumexp(dim=1)).sum()
    return float(logprob), float((chosen - before.mean(dim=1)).sum())


def pushing(found: AnswerComparison, *sides: str) -> set[str]:
    """What pushes so, by its planted name; letters keep their numbers."""
    pushing = (feature.feature for feature in found.features if feature.pushes in sides)
    return {PLANTED.get(ref, str(ref)) for ref in pushing}


def flipped_by(found: AnswerComparison) -> set[str]:
    assert found.flip is not None
    targets = (member.intervention.target for member in found.flip.members)
    return {PLANTED[target] for target in targets if isinstance(target, FeatureRef)}


def test_exactly_the_planted_features_push(planted: Planted) -> None:
    found = planted.compare()

    shared = PUSHES["Y"] & PUSHES["Z"]
    assert pushing(found, "both") == shared
    assert pushing(found, "right") == PUSHES["Y"] - shared
    assert pushing(found, "wrong") == PUSHES["Z"] - shared
    assert found.complete
    a = next(feature for feature in found.features if feature.feature == FEATURES["A"])
    assert a.label is not None
    assert a.label.text == "planted A"
    assert (found.token_texts[a.position], a.activation) == ("A", pytest.approx(1.0, abs=0.02))


def test_the_figures_are_those_of_plain_hooks(planted: Planted) -> None:
    found = planted.compare(right=tuple(b"Yes"), wrong=tuple(b"Z"))
    plain = [plain_scores(planted, QUESTION, answer) for answer in ("Yes", "Z")]

    assert found.right is not None
    assert found.wrong is not None
    scores = [(score.logprob, score.logit) for score in (found.right, found.wrong)]
    assert scores[0] == pytest.approx(plain[0], abs=1e-3)
    assert scores[1] == pytest.approx(plain[1], abs=1e-3)
    assert (found.right.num_tokens, found.wrong.num_tokens) == (3, 1)
    assert len(found.features) > 10
    for feature in found.features:
        ablated = [
            plain_scores(planted, QUESTION, answer, [ablation(feature.feature)]) for answer in ("Yes", "Z")
        ]
        falls = [before[1] - after[1] for before, after in zip(plain, ablated, strict=True)]
        assert [feature.right, feature.wrong] == pytest.approx(falls, abs=1e-3)
        falls = [before[0] - after[0] for before, after in zip(plain, ablated, strict=True)]
        assert [feature.right_logprob, feature.wrong_logprob] == pytest.approx(falls, abs=1e-3)


def test_answers_of_several_tokens_are_pushed_by_what_their_log_probability_loses(planted: Planted) -> None:
    found = planted.compare(right=tuple(b"YY"), wrong=tuple(b"ZZ"))

    sides = {(True, True): "both", (True, False): "right", (False, True): "wrong", (False, False): "neither"}
    effects = []
    for feature in found.features:
        falls = (feature.right_logprob, feature.wrong_logprob)
        assert feature.pushes == sides[falls[0] >= 0.1, falls[1] >= 0.1]
        effects.append(max(map(abs, falls)))
    assert effects == sorted(effects, reverse=True)
    logit_sides = [sides[each.right >= 0.1, each.wrong >= 0.1] for each in found.features]
    assert logit_sides != [each.pushes for each in found.features]  # the two do not say the same
    metrics = (AnswerLogprob(tuple(b"YY")), AnswerLogprob(tuple(b"ZZ")))
    pushing = PushingFeatures(planted.host, list(planted.saes), tuple(QUESTION.encode()), metrics)
    assert [None for _ in pushing.run(64)]
    predicted = {each.feature: (each.right, each.wrong) for each in pushing.strongest()}
    for each in found.features:
        assert (each.predicted_right, each.predicted_wrong) == pytest.approx(
            predicted[each.feature], abs=1e-4
        )


def test_what_the_operator_forbids_is_neither_tried_nor_advised(planted: Planted) -> None:
    """D alone would turn the answer; with E and F, either of which is enough for Z, two are needed."""
    asked: list[tuple[Intervention, ...]] = []

    def refusal(interventions: Sequence[Intervention]) -> str | None:
        asked.append(tuple(interventions))
        forbidden = any(each.target in (FEATURES["D"], FEATURES["A"]) for each in interventions)
        return "not these" if forbidden else None

    found = planted.compare(refusal=refusal)

    assert flipped_by(found) == {"E", "F"}
    assert {FEATURES["D"], FEATURES["A"]}.isdisjoint(each.feature for each in found.features)
    told = [(left_out.interventions, left_out.reason) for left_out in found.left_out]
    assert sorted(edits[0].target.index for edits, _ in told) == sorted(FEATURES[name].index for name in "DA")
    assert {reason for _, reason in told} == {"not these"}
    assert {1, 2} <= {len(each) for each in asked}


def test_sets_that_the_operator_forbids_are_not_tried(planted: Planted) -> None:
    """One intervention at a time is allowed, two would be needed."""
    found = planted.compare(
        saes=(EARLY,), refusal=lambda interventions: "one at most" if len(interventions) > 1 else None
    )

    assert found.flip is None
    assert found.complete
    assert FEATURES["E"] in {each.feature for each in found.features}
    assert found.left_out
    assert all(len(left_out.interventions) > 1 for left_out in found.left_out)


def test_forbidden_additions_give_way_to_the_next(planted: Planted) -> None:
    free = planted.compare("xB?", wrong=tuple(b"."), additions=1)
    assert free.flip is not None
    (best,) = free.flip.members
    found = planted.compare(
        "xB?",
        wrong=tuple(b"."),
        additions=6,
        refusal=lambda interventions: "no" if best.intervention in interventions else None,
    )

    assert best.intervention in {each.interventions[0] for each in found.left_out}
    assert found.flip is not None
    assert best.intervention not in {member.intervention for member in found.flip.members}


def test_what_steers_the_text_is_told(planted: Planted) -> None:
    edits = (
        Intervention(target=FEATURES["F"], operation=Set(0.0)),
        Intervention(target=FEATURES["A"], operation=Add(1.0), scope=Scope(phase=Phase.GENERATED)),
    )
    found = planted.compare(steering=Steering(interventions=edits))
    long = planted.compare(steering=Steering(interventions=edits), right=tuple(b"YY"))

    assert found.steering.interventions == edits
    assert [part.rows > 0 for part in found.steering.receipt.interventions] == [True, False]
    assert len(found.steering.warnings) == 1
    assert [part.rows for part in long.steering.receipt.interventions][1] == 1
    assert long.steering.warnings == ()


def test_a_single_ablation_flips_where_one_is_enough(planted: Planted) -> None:
    found = planted.compare()

    assert flipped_by(found) == {"D"}
    assert found.flip is not None
    assert found.flip.is_minimal
    (member,) = found.flip.members
    assert member.intervention == ablation(FEATURES["D"])
    assert member.label is not None
    assert member.label.text == "planted D"
    assert found.right is not None
    assert found.wrong is not None
    assert found.flip.right.logprob - found.flip.wrong.logprob == pytest.approx(LOGITS["C"], abs=0.2)
    assert member.lead_alone == pytest.approx(found.flip.right.logprob - found.right.logprob)
    assert member.lead_without == pytest.approx(found.right.logprob - found.wrong.logprob)


def test_both_of_two_that_stand_in_for_each_other_are_found(planted: Planted) -> None:
    """With the early SAE alone nothing less than E and F together turns the answer."""
    found = planted.compare(saes=(EARLY,))

    assert flipped_by(found) == {"E", "F"}
    assert found.flip is not None
    assert found.flip.is_minimal
    interventions = [member.intervention for member in found.flip.members]
    right, wrong = (plain_scores(planted, QUESTION, answer, interventions)[0] for answer in "YZ")
    assert right > wrong
    assert (found.flip.right.logprob, found.flip.wrong.logprob) == pytest.approx((right, wrong), abs=1e-3)
    for member in found.flip.members:
        left = [each for each in interventions if each != member.intervention]
        for tried, lead in (([member.intervention], member.lead_alone), (left, member.lead_without)):
            right, wrong = (plain_scores(planted, QUESTION, answer, tried)[0] for answer in "YZ")
            assert lead == pytest.approx(right - wrong, abs=1e-3)
            assert lead < 0


def test_what_breaks_both_answers_is_no_flip(planted: Planted) -> None:
    """Without Q neither answer is likely, and which of them is the less unlikely one means nothing."""
    interventions = [ablation(FEATURES["Q"])]
    right, wrong = (plain_scores(planted, QUESTION, answer, interventions)[0] for answer in "YZ")
    before = plain_scores(planted, QUESTION, "Y")[0]
    found = planted.compare(saes=(EARLY,))

    assert right > wrong
    assert right < before
    assert "Q" not in flipped_by(found)


def test_what_pushes_the_right_answer_is_added_where_that_is_allowed(planted: Planted) -> None:
    """Nothing that fires pushes Z: it wins by a head. More of what pushes Y is all that helps."""
    found = planted.compare("xB?", wrong=tuple(b"."), additions=4)

    assert flipped_by(found) <= {"A", "C", "Q", "S", "G"}
    assert found.flip is not None
    assert len(found.flip.members) == 1
    assert isinstance(found.flip.members[0].intervention.operation, Add)


def test_no_flip_is_looked_for_where_the_right_answer_wins(planted: Planted) -> None:
    found = planted.compare("xAB?")

    assert (found.flip, found.tried) == (None, 0)
    assert pushing(found, "right") == {"A", "B", "C", "Q"}


def test_nothing_is_told_where_nothing_flips(planted: Planted) -> None:
    found = planted.compare("x*?", right=tuple(b"Y"), wrong=tuple(b"."))

    assert found.flip is None
    assert found.complete


def test_side_effects_are_those_of_plain_hooks(planted: Planted) -> None:
    controls = ("xEF?", "abcdef")
    found = planted.compare(saes=(EARLY,), controls=tuple(map(control, controls)))

    assert found.flip is not None
    touched, plain = found.flip.controls
    assert touched.tokens == 4
    assert touched.changed == 0.25  # what follows the question
    assert touched.max_kl > 5 > 4 * touched.mean_kl - 0.1 - touched.max_kl
    assert (plain.changed, plain.max_kl) == (0.0, pytest.approx(0.0, abs=1e-6))


def test_of_flips_of_one_size_the_one_that_does_least_elsewhere_is_told(planted: Planted) -> None:
    """With Y pushed a little, E turns the answer as D does. D leads more, but the control text needs it."""
    pushed = Intervention(target=FEATURES["C"], operation=Add(0.2))
    steering = Steering(interventions=(pushed,))
    blind = planted.compare(steering=steering)
    found = planted.compare(steering=steering, controls=(control("xF?", steering),))

    assert flipped_by(blind) == {"D"}
    assert flipped_by(found) == {"E"}
    assert found.flip is not None
    assert found.flip.controls[0].changed == 0.0


def test_what_steers_the_request_holds_in_everything_that_is_tried(planted: Planted) -> None:
    """With F set to nothing on all rows, E alone stands for Z."""
    steering = Steering(interventions=(Intervention(target=FEATURES["F"], operation=Set(0.0)),))
    found = planted.compare(saes=(EARLY,), steering=steering)

    assert flipped_by(found) == {"E"}
    assert FEATURES["F"] not in {feature.feature for feature in found.features}


@pytest.mark.parametrize("slices", [1, 4, 12, 16])
def test_a_part_of_the_slices_is_told_as_far_as_it_got(planted: Planted, slices: int) -> None:
    whole, part = planted.compare(saes=(EARLY,)), planted.compare(saes=(EARLY,), slices=slices)

    assert not part.complete
    assert {feature.feature for feature in part.features} <= {feature.feature for feature in whole.features}
    assert part.tried <= whole.tried
    if part.flip is not None:
        assert part.flip.right.logprob > part.flip.wrong.logprob
