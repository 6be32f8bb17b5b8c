"""The SAEs being served, each checked against the host it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from steerd.errors import HostError, NotFound, SaeFileError
from steerd.host.hook_point import HookPoint, Site
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_label import FeatureLabel
from steerd.sae.feature_note import FeatureNote
from steerd.sae.sae_file import SaeBundle, SaeMetadata
from steerd.steering.intervention import Direction, FeatureRef, Target
from steerd.steering.residual_norms import median_norms
from steerd.steering.sae_identity import sae_identity

EVERYWHERE: tuple[Site, ...] = ("resid_pre", "resid_post")
"""Where directions can be edited in any layer; elsewhere only where an SAE reads."""

_LARGEST_NORM = 1e30  # a file may say anything


@dataclass(frozen=True, slots=True)
class LoadedSae:
    """One served SAE: its weights on the host's device, where it reads, and what is known of its features.

    `identity` is that of `sae_identity`.
    """

    name: str
    sae: SparseAutoencoder
    hook_point: HookPoint
    metadata: SaeMetadata
    statistics: FeatureStatistics | None
    notes: tuple[FeatureNote, ...] | None
    identity: bytes

    @property
    def median_resid_norm(self) -> float | None:
        """Median length of the rows at its hook point, as its provenance records; None when it does not."""
        recorded = self.metadata.provenance.get("median_resid_norm")
        if isinstance(recorded, int | float) and 0 < recorded < _LARGEST_NORM:
            return float(recorded)
        return None

    def label(self, feature: int) -> FeatureLabel | None:
        """What the SAE's file calls a feature, with its score; None when it has no labels."""
        return None if self.notes is None else self.notes[feature].shown_label


def loaded_sae(name: str, bundle: SaeBundle, hook_point: HookPoint) -> LoadedSae:
    """What a folder holds, under a name, at a hook point of some host."""
    return LoadedSae(
        name=name,
        sae=bundle.sae,
        hook_point=hook_point,
        metadata=bundle.metadata,
        statistics=bundle.statistics,
        notes=bundle.notes,
        identity=sae_identity(bundle.sae, hook_point, bundle.metadata.weights_sha256),
    )


class LoadedSaes:
    """The served SAEs by name, in the order they were added.

    Once requests are served there is nothing more to be added: who holds one of these holds the same SAEs for
    as long as it likes. A reload makes another.
    """

    def __init__(self, host: HostModel) -> None:
        self._host = host
        self._by_name: dict[str, LoadedSae] = {}
        self._measured_norms: dict[HookPoint, float] = {}
        self.generation = 0  # grows with every reload

    def add(self, name: str, bundle: SaeBundle) -> LoadedSae:
        """Serve an SAE under a name; SaeFileError when it does not fit the host or the name is taken."""
        if name in self._by_name:
            raise SaeFileError(f"two SAEs are named {name!r}")
        loaded = self._by_name[name] = self._loaded(name, bundle)
        return loaded

    def reloaded(self, name: str, bundle: SaeBundle) -> LoadedSaes:
        """The same SAEs with another in the place of one of them; NotFound when there is none of that name.

        Raises SaeFileError unless it fits the host, and hook point and d_sae are those of the former: what
        names its features by their numbers goes on doing so.
        """
        former, loaded = self.get(name, field="name"), self._loaded(name, bundle)
        if loaded.hook_point != former.hook_point:
            raise SaeFileError(
                f"SAE {name!r} reads {former.hook_point}, and the one in its folder {loaded.hook_point}"
            )
        if loaded.sae.d_sae != former.sae.d_sae:
            raise SaeFileError(
                f"SAE {name!r} has d_sae {former.sae.d_sae}, and the one in its folder {loaded.sae.d_sae}"
            )
        saes = LoadedSaes(self._host)
        saes._by_name = self._by_name | {name: loaded}
        saes._measured_norms = self._measured_norms
        saes.generation = self.generation + 1
        return saes

    def get(self, name: str, *, field: str = "sae") -> LoadedSae:
        """The SAE of that name; NotFound names the request's field and the SAEs there are."""
        if name not in self._by_name:
            served = ", ".join(self._by_name) or "none"
            raise NotFound(f"no SAE named {name!r}; served: {served}", reason="SAE_NOT_FOUND", field=field)
        return self._by_name[name]

    @property
    def identities(self) -> dict[str, bytes]:
        """By name, what each is known by."""
        return {sae.name: sae.identity for sae in self}

    def measure_norms(self) -> None:
        """Run the host once, to know how long its rows are where no SAE says so; before any engine does."""
        points = {HookPoint(layer, site) for layer in range(self._host.num_layers) for site in EVERYWHERE}
        points |= {sae.hook_point for sae in self}
        self._measured_norms = median_norms(self._host, points)

    def median_resid_norm(self, target: Target) -> float:
        """Median length of the rows at a target's hook point.

        Its own SAE's record, that of any SAE that reads there, or what was measured.
        """
        hook_point = self.hook_point(target)
        here = [] if isinstance(target, Direction) else [self.get(target.sae)]
        here += [sae for sae in self if sae.hook_point == hook_point]
        recorded = (sae.median_resid_norm for sae in here if sae.median_resid_norm is not None)
        return next(recorded, None) or self._measured_norms[hook_point]

    def hook_point(self, target: Target) -> HookPoint:
        """Where a target is read and edited."""
        if isinstance(target, Direction):
            return HookPoint.parse(target.hook_point)
        return self.get(target.sae).hook_point

    def direction_length(self, target: FeatureRef | Direction) -> float:
        """Length of a target's direction; a feature without one has length 1."""
        if isinstance(target, Direction):
            return 1.0
        return float(self.get(target.sae).sae.W_dec[target.index].norm()) or 1.0

    def __iter__(self) -> Iterator[LoadedSae]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def _loaded(self, name: str, bundle: SaeBundle) -> LoadedSae:
        hook_point = self._checked_hook_point(name, bundle.metadata)
        return loaded_sae(name, replace(bundle, sae=bundle.sae.to(self._host.device)), hook_point)

    def _checked_hook_point(self, name: str, metadata: SaeMetadata) -> HookPoint:
        if metadata.d_model != self._host.d_model:
            raise SaeFileError(
                f"SAE {name!r} reads rows of width {metadata.d_model}, "
                f"but host {self._host.name!r} has d_model {self._host.d_model}"
            )
        try:
            hook_point = HookPoint.parse(metadata.hook_point)
            self._host.check_hook_point(hook_point)
        except HostError as error:
            raise SaeFileError(f"SAE {name!r} cannot be served: {error}") from error
        return hook_point
