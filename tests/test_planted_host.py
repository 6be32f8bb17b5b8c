"""The planted host does what it says: readings, causes and what causes nothing, each measured."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor

from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.loaded_saes import LoadedSaes
from tests.planted_host import (
    ANSWERS,
    BOTH,
    DISTRACTORS,
    EITHER,
    FEATURES,
    LOGITS,
    PUSHES,
    make_planted_host,
    planted_saes,
    true_acts,
)

TOLERANCE = 0.02
QUESTION = "x+AB*EFS?"


@pytest.fixture(scope="module")
def host() -> HostModel:
    return make_planted_host()


@pytest.fixture(scope="module")
def saes(host: HostModel) -> LoadedSaes:
    return planted_saes(host)


def ids_of(host: HostModel, text: str) -> Tensor:
    return torch.tensor([host.tokenizer(text)["input_ids"]])


def logits(host: HostModel, text: str) -> Tensor:
    """Of the token after the text, [vocab]."""
    with torch.no_grad():
        found: Tensor = host.model(input_ids=ids_of(host, text)).logits[0, -1]
    return found


@contextmanager
def ablated(host: HostModel, saes: LoadedSaes, *names: str) -> Iterator[None]:
    def edit(sae: SparseAutoencoder, index: int, rows: Tensor) -> Tensor:
        return rows - sae.encode(rows)[:, index, None] * sae.W_dec[index]

    targets = [(saes.get(FEATURES[name].sae), FEATURES[name].index) for name in names]
    handles = [host.attach(sae.hook_point, partial(edit, sae.sae, index)) for sae, index in targets]
    yield
    for handle in handles:
        handle.remove()


def answers_without(host: HostModel, saes: LoadedSaes, *names: str, text: str = QUESTION) -> dict[str, float]:
    with ablated(host, saes, *names):
        found = logits(host, text)
    return {answer: float(found[ord(answer)]) for answer in ANSWERS}


@pytest.mark.parametrize("seed", range(6))
def test_every_named_feature_reads_what_the_rules_say(host: HostModel, saes: LoadedSaes, seed: int) -> None:
    text = "".join(random.Random(seed).choices("AB@EFS?+*abcdef ", k=40))
    hook_points = {sae.name: sae.hook_point for sae in saes}
    rows = host.activations(ids_of(host, text), None, list(hook_points.values()))
    acts = {name: saes.get(name).sae.encode(rows[point][0]) for name, point in hook_points.items()}

    for name, expected in true_acts(text).items():
        found = acts[FEATURES[name].sae][:, FEATURES[name].index]
        assert found.tolist() == pytest.approx(expected, abs=TOLERANCE), name


@pytest.mark.parametrize("sae", ["early", "late"])
def test_letter_features_fire_on_some_letters_and_no_other_character(
    host: HostModel, saes: LoadedSaes, sae: str
) -> None:
    loaded = saes.get(sae)
    named = {feature.index for feature in FEATURES.values() if feature.sae == sae}
    letters = [index for index in range(loaded.sae.d_sae) if index not in named]

    def share_fired(text: str) -> Tensor:
        rows = host.activations(ids_of(host, text), None, [loaded.hook_point])
        return (loaded.sae.encode(rows[loaded.hook_point][0])[:, letters] > 0).float().mean(dim=0)

    on_letters = share_fired("abcdefghijklmnopqrstuvwxyz")
    assert ((on_letters > 0) & (on_letters < 0.6)).all()
    assert share_fired("+ABEFS@*?").sum() == 0


@pytest.mark.parametrize(
    ("text", "y", "z"),
    [
        ("ab?", 0.0, 0.0),
        ("A x?", 0.0, 0.0),
        ("A xB?", LOGITS["C"], 0.0),
        ("E?", 0.0, LOGITS["D"] * EITHER),
        ("EF x?", 0.0, LOGITS["D"] * BOTH),
        ("xS?", LOGITS["G"], LOGITS["G"]),
        ("AEFSB?", LOGITS["C"] + LOGITS["G"], LOGITS["D"] * BOTH + LOGITS["G"]),
        ("AEFSBx", 0.0, 0.0),
    ],
)
def test_the_answers_have_their_logits(host: HostModel, text: str, y: float, z: float) -> None:
    found = logits(host, text)

    assert [float(found[ord(answer)]) for answer in ANSWERS] == pytest.approx([y, z], abs=0.3)
    others = [i for i in range(host.vocab_size) if i not in {*map(ord, ANSWERS), ord(".")}]
    assert float(found[others].max()) < 2.0
    assert float(found[ord(".")]) == pytest.approx(4.0, abs=1.0)


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_a_feature_moves_the_answers_that_it_is_said_to_push_and_no_other(
    host: HostModel, saes: LoadedSaes, name: str
) -> None:
    before = answers_without(host, saes)
    after = answers_without(host, saes, name)
    moved = {answer for answer in ANSWERS if before[answer] - after[answer] > 1.0}
    kept = {answer for answer in ANSWERS if abs(before[answer] - after[answer]) < 0.1}

    assert moved == {answer for answer in ANSWERS if name in PUSHES[answer]}
    assert moved | kept == set(ANSWERS)
    assert (name in DISTRACTORS) == (not moved)


def test_a_distractor_hardly_changes_any_logit(host: HostModel, saes: LoadedSaes) -> None:
    before = logits(host, QUESTION)
    with ablated(host, saes, *DISTRACTORS):
        after = logits(host, QUESTION)

    assert float((before - after).abs().max()) < 0.1


def test_without_one_of_the_two_that_are_enough_the_answer_stays(host: HostModel, saes: LoadedSaes) -> None:
    for gone in ("E", "F"):
        left = answers_without(host, saes, gone)
        assert left["Z"] > left["Y"]

    left = answers_without(host, saes, "E", "F")
    assert left["Z"] < left["Y"]
