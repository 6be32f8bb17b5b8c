"""What the files of the served SAEs tell of their features, without a look at host or weights."""

from __future__ import annotations

from collections.abc import Sequence

from steerd.sae.feature_label import FeatureLabel
from steerd.sae.feature_note import FeatureNote
from steerd.sae.feature_search import search_words
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae
from steerd.studies.feature_matches import FeatureMatch, FeatureMatches, TextMatch
from steerd.studies.feature_page import FeaturePage


def matched(loaded: LoadedSae, index: int, match: float, texts: TextMatch | None = None) -> FeatureMatch:
    """A feature as an answer to a search tells it."""
    statistics, note = loaded.statistics, loaded.notes[index] if loaded.notes else None
    return FeatureMatch(
        feature=FeatureRef(loaded.name, index),
        hook_point=str(loaded.hook_point),
        label=loaded.label(index),
        match=match,
        density=float(statistics.density[index]) if statistics else None,
        max_activation=float(statistics.max_activation[index]) if statistics else None,
        top_tokens=tuple(note.top_tokens) if note else (),
        promoted_tokens=tuple(note.promoted_tokens) if note else (),
        texts=texts,
    )


def words_matched(saes: Sequence[LoadedSae], words: Sequence[str], limit: int) -> FeatureMatches:
    """The features of all these SAEs that words ask for; see `search_words` for their order."""
    found = [
        (loaded, match)
        for loaded in saes
        for match in search_words(
            loaded.notes or (), words, loaded.statistics.density if loaded.statistics else None
        )
    ]
    found.sort(key=lambda pair: pair[1].rank)
    best = tuple(matched(loaded, match.note.feature, match.score) for loaded, match in found[:limit])
    return FeatureMatches(best, found=len(found))


def known_page(loaded: LoadedSae, index: int) -> FeaturePage:
    """A feature's page as far as its SAE's file tells it."""
    statistics, note = loaded.statistics, loaded.notes[index] if loaded.notes else None
    return FeaturePage(
        feature=FeatureRef(loaded.name, index),
        hook_point=str(loaded.hook_point),
        labels=_labels(note) if note else (),
        density=float(statistics.density[index]) if statistics else None,
        max_activation=float(statistics.max_activation[index]) if statistics else None,
        mean_activation=float(statistics.mean_activation[index]) if statistics else None,
        dead=bool(statistics.dead[index]) if statistics else False,
        top_tokens=tuple(note.top_tokens) if note else (),
        promoted_tokens=tuple(note.promoted_tokens) if note else (),
        contexts=(*note.examples, *note.sampled) if note else (),
    )


def _labels(note: FeatureNote) -> tuple[FeatureLabel, ...]:
    """All that there are, the one to show first."""
    made, shown = FeatureLabel(note.label, tuple(note.scores)), note.shown_label
    return tuple(sorted(filter(None, (made, note.written)), key=lambda label: label != shown))
