"""Edits that no row of a request can get, as a client that asked for them should know."""

from __future__ import annotations

from collections.abc import Sequence

from steerd.steering.coverage import Coverage
from steerd.steering.intervention import Intervention
from steerd.steering.steering import Steering

Text = tuple[Sequence[int], int]
"""Prompt ids, and how many rows come after them."""


def idle_warnings(steering: Steering, texts: Sequence[Text], special_ids: frozenset[int]) -> tuple[str, ...]:
    """A warning for each edit, of the request itself or of a preset, that none of the texts has a row for.

    Where its rows are tokens still to be made, they count as possible.
    """
    return tuple(
        f"{edit.source or f'interventions[{place}]'}: edits nothing, as no row is in its scope and schedule"
        for place, edit in enumerate(steering.interventions)
        if not edit.is_demanded and not any(_reaches(edit, steering, text, special_ids) for text in texts)
    )


def _reaches(edit: Intervention, steering: Steering, text: Text, special_ids: frozenset[int]) -> bool:
    prompt_ids, num_generated = text
    coverage = Coverage(
        edit.scope,
        edit.schedule,
        prompt_ids=prompt_ids,
        roles=steering.roles,
        special_ids=special_ids,
    )
    return coverage.reaches(num_generated)
