"""What SAE folders tell about their features, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steerd.errors import NotFound, SaeFileError
from steerd.host.hook_point import HookPoint
from steerd.sae.sae_file import NOTES_FILE, load_sae
from steerd.starters import sae_folder
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae, loaded_sae
from steerd.studies.feature_matches import FeatureMatches, Side
from steerd.studies.feature_page import FeaturePage
from steerd.studies.known_features import known_page, words_matched
from steerd.studies.nearest import directions, nearest_in

_NEIGHBOURS = 8


class FeatureFolders:
    """Some SAE folders, read when they are needed; each SAE is called what its folder is called."""

    def __init__(self, names: Sequence[str]) -> None:
        """Starters by name, others by path. Raises SaeFileError."""
        self._saes = [_loaded(name) for name in dict.fromkeys(names)]

    def search(self, words: Sequence[str], limit: int) -> FeatureMatches:
        """The features that words ask for; raises SaeFileError when an SAE has nothing to search in."""
        for sae in self._saes:
            if sae.notes is None:
                raise SaeFileError(
                    f"{sae.name}: {NOTES_FILE} is missing, so its features have no labels to search"
                )
        return words_matched(self._saes, words, limit)

    def page(self, feature: FeatureRef) -> FeaturePage:
        """All that a folder knows of a feature: what takes the host is left out. Raises NotFound."""
        sae = self._of(feature)
        near = nearest_in(sae, sae.sae.W_dec[feature.index], "decoder", _NEIGHBOURS + 1)
        others = (match for match in near if match.feature != feature)
        return replace(known_page(sae, feature.index), neighbours=tuple(others)[:_NEIGHBOURS])

    def nearest(self, feature: FeatureRef, side: Side, limit: int) -> FeatureMatches:
        """The features of all folders that point most like one of them; raises NotFound."""
        direction = directions(self._of(feature), side)[feature.index]
        same_width = [sae for sae in self._saes if sae.sae.d_model == len(direction)]
        found = [match for sae in same_width for match in nearest_in(sae, direction, side, limit + 1)]
        found.sort(key=lambda match: -match.match)
        others = tuple(match for match in found if match.feature != feature)[:limit]
        return FeatureMatches(others, found=sum(sae.sae.d_sae for sae in same_width))

    def _of(self, feature: FeatureRef) -> LoadedSae:
        found = next((sae for sae in self._saes if sae.name == feature.sae), None)
        if found is None:
            known = ", ".join(sae.name for sae in self._saes)
            raise NotFound(
                f"no SAE named {feature.sae!r} among {known}", reason="SAE_NOT_FOUND", field="feature"
            )
        if not 0 <= feature.index < found.sae.d_sae:
            message = f"feature must be from 0 to {found.sae.d_sae - 1}; got {feature.index}"
            raise NotFound(message, reason="FEATURE_NOT_FOUND", field="feature")
        return found


def _loaded(name: str) -> LoadedSae:
    bundle = load_sae(sae_folder(name))
    return loaded_sae(bundle.metadata.name, bundle, HookPoint.parse(bundle.metadata.hook_point))
