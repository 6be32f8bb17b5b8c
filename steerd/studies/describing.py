"""GetFeature: one feature with what its direction does to the host's logits, and its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.host.output_tokens import OutputTokenFinder
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.feature_matches import FeatureMatch
from steerd.studies.feature_page import FeaturePage, PageWish, TokenEffect
from steerd.studies.known_features import known_page
from steerd.studies.nearest import nearest_in


class OutputTokenFinders:
    """One for each SAE, kept until another one has its name. Used on the engine's thread alone."""

    def __init__(self, host: HostModel) -> None:
        self._host = host
        self._by_sae: dict[str, tuple[bytes, OutputTokenFinder]] = {}

    def of(self, loaded: LoadedSae) -> OutputTokenFinder:
        """The finder of an SAE, which may have to measure first."""
        identity, finder = self._by_sae.get(loaded.name, (b"", None))
        if finder is None or identity != loaded.identity:
            finder = OutputTokenFinder(self._host, loaded.sae.W_dec)
            self._by_sae[loaded.name] = loaded.identity, finder
        return finder


class Describing:
    """A study whose result is a FeaturePage; incomplete, it lacks output tokens and neighbours."""

    def __init__(self, finders: OutputTokenFinders, saes: LoadedSaes, wish: PageWish) -> None:
        self._finders = finders
        self._wish = wish
        self._loaded = saes.get(wish.feature.sae)
        self._page = replace(known_page(self._loaded, wish.feature.index), complete=False)

    def run(self) -> Iterator[Progress]:
        """Measures what output tokens are counted in, if nobody has yet, some thousand tokens a slice."""
        finder = self._finders.of(self._loaded)
        if not finder.is_measured:
            for done in finder.measure():
                yield Progress(done, finder.vocab_size, "tokens")
        promoted, suppressed = self._output_tokens(finder)
        self._page = replace(
            self._page,
            promoted=promoted,
            suppressed=suppressed,
            neighbours=self._neighbours(),
            complete=True,
        )
        yield Progress(finder.vocab_size, finder.vocab_size, "tokens")

    def result(self) -> FeaturePage:
        """The page as far as it is known."""
        return self._page

    def _output_tokens(
        self, finder: OutputTokenFinder
    ) -> tuple[tuple[TokenEffect, ...], tuple[TokenEffect, ...]]:
        found = finder.find([self._wish.feature.index], self._wish.output_tokens)
        raised, up, lowered, down = (part[0].tolist() for part in found)
        return tuple(map(TokenEffect, raised, up)), tuple(map(TokenEffect, lowered, down))

    def _neighbours(self) -> tuple[FeatureMatch, ...]:
        direction = self._loaded.sae.W_dec[self._wish.feature.index]
        near = nearest_in(self._loaded, direction, "decoder", self._wish.neighbours + 1)
        others = [match for match in near if match.feature != self._wish.feature]
        return tuple(others[: self._wish.neighbours])
