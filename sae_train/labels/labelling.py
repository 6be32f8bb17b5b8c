"""Features given to a judge one by one: a label written, it and the one made of tokens tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from threading import Lock

from sae_train.labels.journal import Journal, JudgedFeature
from sae_train.labels.judge import Judge, Task
from sae_train.labels.label_contexts import LabelContext, LabelContexts
from sae_train.labels.label_tests import rated, score_label
from sae_train.labels.prompts import label_question, read_label
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.sae.feature_note import FeatureNote

_TASKS: tuple[Task, ...] = ("detection", "fuzzing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """What is asked about each feature: `writes` a label of its own, has contexts rated by the `rubric`."""

    judge: Judge
    contexts: LabelContexts
    max_activation: Sequence[float]
    writes: bool
    rubric: bool

    def judged(self, note: FeatureNote, reading: Lock) -> JudgedFeature:
        """Ask all there is to ask about one feature; raises JudgeError.

        `reading` is held while contexts are read, which no two threads may do at once.
        """
        with reading:
            testing = self.contexts.to_test_on(note.feature)
            writing = self.contexts.to_write_from(note.feature) if self.writes else []
            strongest = self.contexts.strongest(note.feature) if self.rubric else []
        scores = self._tested(note.feature, note.label, testing)
        written = self._written(writing) if any(context.is_active for context in writing) else None
        if written is not None:
            written = replace(written, scores=self._tested(note.feature, written.text, testing))
        points = rated(self.judge, strongest) if self.rubric else None
        return JudgedFeature(note.feature, (*scores, *([points] if points else [])), written)

    def _tested(self, feature: int, label: str, contexts: Sequence[LabelContext]) -> tuple[LabelScore, ...]:
        highest = self.max_activation[feature]
        found = (score_label(self.judge, task, label, contexts, highest) for task in _TASKS)
        return tuple(score for score in found if score is not None)

    def _written(self, contexts: Sequence[LabelContext]) -> FeatureLabel | None:
        text = read_label(self.judge.answer(label_question(contexts)))
        return None if text is None else FeatureLabel(text, by=self.judge.name)


def judge_features(
    labelling: Labelling, notes: Sequence[FeatureNote], journal: Journal, on_feature: Callable[[int], object]
) -> None:
    """Judge the features that the journal lacks, several at once where the judge allows it.

    Raises the first JudgeError; what was judged until then is in the journal.
    """
    reading = Lock()

    def judge(note: FeatureNote) -> None:
        journal.add(labelling.judged(note, reading))
        on_feature(1)

    with ThreadPoolExecutor(labelling.judge.parallel) as threads:
        futures = [threads.submit(judge, note) for note in notes if note.feature not in journal.done]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
    for future in futures:
        if not future.cancelled():
            future.result()


def with_judged(notes: Sequence[FeatureNote], journal: Journal) -> tuple[FeatureNote, ...]:
    """Return the notes with what the judge found in place of what the same judge had found before."""
    return tuple(_with(note, journal.done.get(note.feature)) for note in notes)


def _with(note: FeatureNote, judged: JudgedFeature | None) -> FeatureNote:
    if judged is None:
        return note
    judges = {score.judge for score in judged.scores}
    kept = [score for score in note.scores if score.judge not in judges]
    return replace(note, scores=(*kept, *judged.scores), written=judged.written or note.written)
