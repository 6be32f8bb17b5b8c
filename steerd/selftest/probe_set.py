"""All that is asked of one host with its SAEs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steerd.host.host_model import HostModel
from steerd.selftest import texts
from steerd.selftest.places import direction_points
from steerd.selftest.plain_rows import PlainRows
from steerd.selftest.probes import Probe, split
from steerd.selftest.steered_probes import shoves, steered_probes
from steerd.selftest.triggered_probes import switched_probes, triggered_probes
from steerd.steering.intervention import FeatureRef, WholeSae
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import RoleSpan

# Tokens of the text that most is asked about, of its prompt, and where special tokens are put into it.
_LENGTH, _PROMPT, _SPECIAL_AT = 36, 16, (9, 27)

# As if its prompt were a chat: what is between the messages is a template's.
_ROLES = (RoleSpan("system", 0, 3), RoleSpan("user", 4, 8), RoleSpan("user", 11, 14))

_NEIGHBOURS = (3, 29, 11, 20)  # tokens of their prompts
_CONTINUATION = 8
_SHARING = 4


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """`steered` are of the plain one's text, whose rows are kept; `lengths` of texts around a page long.

    The prompts of `sharing` begin with the same page, which is steered in another way in each.
    In `triggered` features fire, and the first of `switched` is to come to what its second is.
    `neighbours` share batches with them, and nobody looks at what they get. `recordable` are the plain one
    and those of the steered ones whose steps can be recorded.
    """

    plain: Probe
    steered: Sequence[Probe]
    lengths: Sequence[Probe]
    sharing: Sequence[Probe]
    triggered: Sequence[Probe]
    switched: tuple[Probe, Probe]
    neighbours: Sequence[Probe]
    recordable: Sequence[Probe]
    rows: PlainRows

    def with_references(self) -> list[Probe]:
        """Those that the plain host is asked as well."""
        _, as_if = self.switched
        return [self.plain, *self.steered, *self.lengths, *self.sharing, *self.triggered, as_if]


def make_probe_set(host: HostModel, saes: LoadedSaes, page_size: int) -> ProbeSet:
    """Find out what the plain host does with a text, and ask accordingly."""
    ids = texts.token_ids(host, texts.FIRST, min(_LENGTH, host.max_context))
    for position in _SPECIAL_AT:
        ids = texts.with_special_token(host, ids, position)
    rows = PlainRows(host, ids, [*(loaded.hook_point for loaded in saes), *direction_points(host)])
    plain = replace(split("unsteered", ids, _PROMPT), roles=_ROLES)
    steered = steered_probes(host, saes, plain, rows)
    hard = shoves(host, rows)
    return ProbeSet(
        plain=plain,
        steered=steered,
        lengths=[
            replace(
                _probe(host, f"{length} tokens", texts.FIRST, length), interventions=steered[0].interventions
            )
            for length in _lengths(page_size, host.max_context)
        ],
        sharing=_sharing(host, page_size, [plain, *steered[:_SHARING]]),
        triggered=triggered_probes(host, saes, plain, rows),
        switched=switched_probes(host, saes, plain, rows),
        neighbours=[
            replace(_probe(host, f"neighbour {length}", texts.SECOND, length), interventions=hard)
            for length in _NEIGHBOURS
        ],
        recordable=[probe for probe in (plain, *steered) if _is_recordable(probe, saes)],
        rows=rows,
    )


def _is_recordable(probe: Probe, saes: LoadedSaes) -> bool:
    """Whether no SAE has to be encoded as a whole for it."""
    targets = [edit.target for edit in probe.interventions]
    tests = [edit.condition.tests for edit in probe.interventions if edit.condition]
    targets += [test.target for tested in tests for test in tested]
    names = {target.sae for target in targets if isinstance(target, FeatureRef)}
    has_whole = any(isinstance(target, WholeSae) for target in targets)
    return not has_whole and all(saes.get(name).sae.activation.columnwise for name in names)


def _probe(host: HostModel, name: str, text: str, num_prompt: int) -> Probe:
    return split(name, texts.token_ids(host, text, num_prompt + _CONTINUATION), num_prompt)


def _sharing(host: HostModel, page_size: int, steered: Sequence[Probe]) -> list[Probe]:
    """Prompts a little longer than a page, which these probes' interventions steer."""
    num_prompt = page_size + 2
    if num_prompt + _CONTINUATION > host.max_context:
        return []
    return [
        replace(
            _probe(host, f"{probe.name}, a page", texts.FIRST, num_prompt), interventions=probe.interventions
        )
        for probe in steered
    ]


def _lengths(page_size: int, max_context: int) -> list[int]:
    """Prompts of one token and two, and around a page."""
    wanted = {1, 2, page_size - 1, page_size, page_size + 1}
    return sorted(length for length in wanted if length + _CONTINUATION <= max_context)
