"""Whether our logit lens and traced features are those of TransformerLens and SAELens.

Both look at the same token ids of the same host with the same SAE folders. TransformerLens computes the host
by code of its own; its residual stream goes through its own final norm and unembedding, and SAELens's SAEs
read it. Every text is looked at as it is, and once more with the feature ablated that fires most on it.
Compared are, at every layer and position, log-probabilities of tokens and the likeliest token; and, for every
SAE at every position, the strongest features, the length of the row and of what is not explained.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.lens_peers.job import TOP, Job, LookedAt
from benchmarks.report import Report, Row, parser_of, report_for
from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.engine.study import Study
from steerd.host.default_host import DEFAULT_HOST_ALIAS
from steerd.host.host_model import HostModel
from steerd.host.loading import load_pretrained
from steerd.host.text import ChatMessage, encode_chat, encode_prompt
from steerd.sae.sae_file import load_sae
from steerd.starters import STARTERS, sae_folder
from steerd.steering.intervention import Ablate, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Scope
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlanner
from steerd.studies.logit_lens import LensWish, LogitLens
from steerd.studies.trace import Trace, TraceWish

NAME = "lens_agreement"
ABLATING = "starter-14"

# Two ways to compute thirty layers in float32, on rows of which an attention sink is a hundred times as long.
MOST_NATS = 1e-3
MOST_SHARE = 1e-4

PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of 100 degrees Celsius, and it freezes at",
    "def add(a, b):\n    return a",
    "She looked out of the window: rain again, and the wind was getting stronger. She",
)
CHATS = ("Will it rain in London tomorrow? Answer in one sentence.", "Name three fruits.")
CHOSEN = 64
"""Tokens, drawn by chance, whose log-probabilities are compared."""

_ROOT = Path(__file__).parent.parent
_PEER = "benchmarks.lens_peers.hooked_transformer"

Seen = Mapping[str, Tensor]
"""What one side saw of a text, by the names that the peer's script gives it."""


@dataclass(frozen=True, slots=True)
class Ours:
    """Our side: the studies of the product, without a server."""

    host: HostModel
    saes: LoadedSaes
    forward: SteeredForward
    chosen: tuple[int, ...]

    def seen(self, text: LookedAt) -> Seen:
        """What the peer is asked for as well."""
        asked, num_layers = self._steered(text), self.host.num_layers
        every = tuple(range(len(text.token_ids)))
        lens = _run(
            LogitLens(
                self.forward,
                self.host,
                LensWish(
                    text=asked,
                    plan_hash="",
                    layers=tuple(range(num_layers)),
                    positions=every,
                    top=1,
                    chosen=self.chosen,
                ),
            )
        )
        logprobs = torch.tensor([[token.logprob for token in cell.chosen] for cell in lens.cells])
        likeliest = torch.tensor([cell.top[0].token_id for cell in lens.cells])
        found = {
            "logprobs": logprobs.view(num_layers, len(every), -1),
            "likeliest": likeliest.view(num_layers, len(every)),
        }
        return found | self._traced(asked, every)

    def strongest(self, token_ids: Sequence[int]) -> int:
        """The feature of the SAE `ABLATING` that fires most on a text, its first token left out."""
        loaded = self.saes.get(ABLATING)
        rows = self.host.activations(torch.tensor([token_ids]), None, [loaded.hook_point])[loaded.hook_point]
        return int(loaded.sae.encode(rows[0, 1:].float()).sum(dim=0).argmax())

    def _traced(self, asked: SteeredText, every: tuple[int, ...]) -> dict[str, Tensor]:
        names = tuple(loaded.name for loaded in self.saes)
        wish = TraceWish(text=asked, plan_hash="", saes=names, positions=every, top=TOP, after_edit=True)
        trace = _run(Trace(self.forward, self.host, self.saes, wish))
        found: dict[str, Tensor] = {}
        for name in names:
            rows = [row for row in trace.rows if row.sae == name]
            values = torch.zeros(len(rows), TOP)
            features = torch.zeros(len(rows), TOP, dtype=torch.long)
            for place, row in enumerate(rows):
                for number, feature in enumerate(row.features):
                    values[place, number], features[place, number] = feature.activation, feature.feature
            found |= {
                f"{name}.values": values,
                f"{name}.features": features,
                f"{name}.norms": torch.tensor([row.resid_norm for row in rows]),
                f"{name}.errors": torch.tensor([row.error_norm for row in rows]),
            }
        return found

    def _steered(self, text: LookedAt) -> SteeredText:
        if text.ablated is None:
            return SteeredText(prompt_ids=tuple(text.token_ids))
        ablate = Intervention(
            target=FeatureRef(ABLATING, text.ablated),
            operation=Ablate(),
            scope=Scope(include_special_tokens=True),
        )
        return SteeredText(prompt_ids=tuple(text.token_ids), steering=Steering(interventions=(ablate,)))


def main() -> None:
    """Look on both sides and compare."""
    options = _options()
    report = report_for(NAME, options)
    with _loaded(options) as (ours, job), tempfile.TemporaryDirectory() as folder:
        theirs = _ask(options.peer_python, job, Path(folder))
        rows = [
            compared(text, ours.seen(text), _of_text(theirs, number), list(job.sae_folders))
            for number, text in enumerate(job.texts)
        ]
    finish(report, rows)


def compared(text: LookedAt, ours: Seen, theirs: Seen, saes: Sequence[str]) -> Row:
    """The largest differences on one text."""
    row: dict[str, Any] = {
        "tokens": len(text.token_ids),
        "ablated": "" if text.ablated is None else f"{ABLATING}:{text.ablated}",
        "log-probability, nats": float((ours["logprobs"] - theirs["logprobs"]).abs().max()),
        "same likeliest": float((ours["likeliest"] == theirs["likeliest"]).double().mean()),
    }
    for name, key in (("activation", "values"), ("row length", "norms"), ("error length", "errors")):
        row[f"{name}, share"] = max(share(ours[f"{sae}.{key}"], theirs[f"{sae}.{key}"]) for sae in saes)
    row["same strongest"] = sum(
        float((ours[f"{sae}.features"][:, 0] == theirs[f"{sae}.features"][:, 0]).double().mean())
        for sae in saes
    ) / len(saes)
    return row


def share(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of numbers that are about as large as each other, by the larger of a row."""
    scale = theirs.abs().amax(dim=-1, keepdim=True) if theirs.dim() > 1 else theirs.abs()
    return float(((ours - theirs).abs() / scale.clamp(min=1e-6)).max())


def finish(report: Report, rows: Sequence[Row]) -> None:
    """Judge by the largest of all rows."""
    report.add_rows("Largest differences, text by text", rows)
    report.at_most("largest_logprob_difference_nats", _largest(rows, "log-probability, nats"), MOST_NATS)
    for name in ("activation", "row length", "error length"):
        key = f"largest_{name.replace(' ', '_')}_difference_share"
        report.at_most(key, _largest(rows, f"{name}, share"), MOST_SHARE)
    report.at_least("same_likeliest", min(float(row["same likeliest"]) for row in rows), 0.99)
    report.at_least("same_strongest", min(float(row["same strongest"]) for row in rows), 0.99)
    report.finish()


def _of_text(theirs: Seen, number: int) -> Seen:
    prefix = f"{number}."
    return {name.removeprefix(prefix): each for name, each in theirs.items() if name.startswith(prefix)}


def _largest(rows: Sequence[Row], name: str) -> float:
    return max(float(row[name]) for row in rows)


@contextmanager
def _loaded(options: argparse.Namespace) -> Iterator[tuple[Ours, Job]]:
    loaded = load_pretrained(DEFAULT_HOST_ALIAS, dtype="float32", device="cpu")
    host = HostModel(loaded.model, loaded.tokenizer, name=DEFAULT_HOST_ALIAS, folder=loaded.folder)
    saes = LoadedSaes(host)
    for name in STARTERS:
        saes.add(name, load_sae(sae_folder(name)))
    planner = StepPlanner(host, saes, 0)
    chosen = tuple(sorted(random.Random(0).sample(range(host.vocab_size), CHOSEN)))
    ours = Ours(host, saes, SteeredForward(host, planner), chosen)
    plain = [LookedAt(token_ids=ids) for ids in token_ids(host, quick=options.quick)]
    ablated = [LookedAt(token_ids=text.token_ids, ablated=ours.strongest(text.token_ids)) for text in plain]
    try:
        yield (
            ours,
            Job(
                host_folder=str(loaded.folder),
                sae_folders={each.name: str(sae_folder(each.name).resolve()) for each in saes},
                sae_layers={each.name: each.hook_point.layer for each in saes},
                ablating=ABLATING,
                chosen=list(chosen),
                texts=[*plain, *ablated],
                found="",
            ),
        )
    finally:
        planner.close()


def token_ids(host: HostModel, *, quick: bool) -> list[list[int]]:
    """The texts, plain ones and chats."""
    prompts = [encode_prompt(host.tokenizer, text) for text in PROMPTS]
    chats = [encode_chat(host.tokenizer, [ChatMessage("user", text)]) for text in CHATS]
    return [prompts[0], chats[0]] if quick else [*prompts, *chats]


def _run(study: Study[Any]) -> Any:
    """A whole study, whose result is of its own type."""
    with torch.inference_mode():
        for _ in study.run():
            pass
    return study.result()


def _ask(python: str, job: Job, folder: Path) -> dict[str, Tensor]:
    """What the peer saw, by text and name."""
    path, found = folder / "job.json", folder / "found.safetensors"
    dataclasses.replace(job, found=str(found)).write(path)
    command = [python, "-m", _PEER, str(path)]
    printed = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    print("peer:", json.loads(printed.splitlines()[-1]))
    return load_file(found)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument(
        "--peer-python", required=True, help="Python of an environment that has sae-lens and transformer-lens"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
