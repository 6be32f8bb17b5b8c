"""A request's interventions and readings, resolved to columns of its hook points' tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.host.hook_point import HookPoint
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.coverage import Coverage, Floats
from steerd.steering.intervention import Affine, Target
from steerd.steering.lanes import Lane, ResolvedTest
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.trigger import Trigger

HeldColumn = tuple[HookPoint, int]
"""A column of a hook point's table."""


@dataclass(frozen=True, slots=True)
class ColumnEdit:
    """An edit along the direction that stands in a column."""

    column: int
    form: Affine


@dataclass(frozen=True, slots=True)
class ResolvedEdit:
    """One intervention at its hook point; `does` is an SAE where its reconstruction takes the row's place.

    `number` is its own among all of its request; `is_demanded` is as Intervention's, and `lane` the number of
    the one that it waits for, if any.
    """

    number: int
    hook_point: HookPoint
    target: Target
    does: ColumnEdit | SparseAutoencoder
    coverage: Coverage
    preserve_norm: bool
    is_demanded: bool
    lane: int | None


@dataclass(frozen=True, slots=True)
class NumberedTarget:
    """What an intervention edits, and where."""

    hook_point: HookPoint
    target: Target


@dataclass(frozen=True, slots=True)
class SaeReads:
    """What one request reads of one SAE, which is `reader` whatever bears its name later.

    `features` are all the features it watches or steers, watched ones first in the order asked, and `columns`
    where they stand in the table; `num_watched` of them are sent with every token.
    """

    sae: str
    reader: SparseAutoencoder
    hook_point: HookPoint
    features: tuple[int, ...]
    columns: tuple[int, ...]
    num_watched: int
    top_k: int


@dataclass(frozen=True, slots=True)
class ResolvedTrigger:
    """A trigger and what it needs: all bits of any of `needs` on a row."""

    trigger: Trigger
    needs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RequestWishes:
    """What one request wants, and what is needed to find its rows.

    `saes` are those that were served when it came. `slot` is a number that no other running request has,
    `columns` all that it holds. `is_steady` says that on generated rows nothing but a special token changes
    what is done. `edits` are made now, `numbered` stand by number for all that may be, whatever triggers
    bring. Of `tests` and `lanes`, those of one hook point are numbered in their order; the tests of
    `triggers` come first.
    """

    saes: LoadedSaes
    slot: int
    prompt_length: int
    include_prompt: bool
    after_edit: bool
    edits: tuple[ResolvedEdit, ...]
    numbered: tuple[NumberedTarget, ...]
    by_sae: tuple[SaeReads, ...]
    triggers: tuple[ResolvedTrigger, ...]
    tests: tuple[ResolvedTest, ...]
    lanes: tuple[Lane, ...]
    columns: tuple[HeldColumn, ...]
    is_steady: bool

    @property
    def is_along_directions(self) -> bool:
        """Whether all its edits are, and none makes a row into what a whole SAE makes of it."""
        return all(isinstance(edit.does, ColumnEdit) for edit in self.edits)

    def factors(self, first_position: int, token_ids: Sequence[int]) -> list[Floats]:
        """How strong each of its edits is on consecutive rows; to be asked as Coverage says."""
        return [edit.coverage.factors(first_position, token_ids) for edit in self.edits]
