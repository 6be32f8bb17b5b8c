"""A Llama whose weights are set by hand: what its features mean, and what they cause, is known.

A character writes the features of its own row; `?` asks. On the row of a `?` layer 1's attention gathers what
was written before it, and its MLP computes two features from that, which the head turns into two answers:

    A, B   --AND-->  C  -->  answer Y         S  -->  G  -->  both answers
    E, F   --OR--->  D  -->  answer Z         Q (the row asks) gates C, D and G

The OR adds up to more when both are there, so that either one is enough and neither is idle. `+` writes P,
from which layer 1 computes R on the same row; `*` writes O. Nothing reads R, O or what LATE sees of A. All
other features of the SAEs, called letters, fire on noise: characters that write nothing have some of their
own, which never meets a planted direction. Directions are the rows of a random rotation, so that no axis
gives one away, and the features of an SAE stand in a mixed order.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from steerd.host.host_model import HostModel
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_note import FeatureNote
from steerd.sae.sae_file import SaeBundle, SaeMetadata
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from tests.tiny_hosts import VOCAB_SIZE, byte_tokenizer

EARLY, LATE = "early", "late"
HOOK_POINTS: Mapping[str, str] = MappingProxyType(
    {EARLY: "blocks.0.hook_resid_post", LATE: "blocks.1.hook_resid_post"}
)
D_SAE = 16

WRITTEN_BY: Mapping[str, str] = MappingProxyType(
    {"A": "A@", "B": "B", "E": "E", "F": "F", "S": "S", "Q": "?", "P": "+", "O": "*"}
)
"""Which characters write each feature of the EARLY SAE, with activation 1."""

_EARLY_PLACES = {"A": 5, "B": 11, "E": 2, "F": 14, "S": 8, "Q": 0, "P": 9, "O": 3}
_LATE_PLACES = {"C": 7, "D": 12, "G": 4, "R": 1, "A moved": 10, "A late": 15}
FEATURES: Mapping[str, FeatureRef] = MappingProxyType(
    {name: FeatureRef(EARLY, index) for name, index in _EARLY_PLACES.items()}
    | {name: FeatureRef(LATE, index) for name, index in _LATE_PLACES.items()}
)
ANSWERS = ("Y", "Z")
PUSHES: Mapping[str, frozenset[str]] = MappingProxyType({"Y": frozenset("ABCQSG"), "Z": frozenset("EFDQSG")})
"""Which features raise the logit of each answer, where they fire; no other feature moves it."""
DISTRACTORS = frozenset({"P", "O", "R", "A moved", "A late"})

EITHER, BOTH = 1.0, 1.4889
"""What D reads with one of E and F before the `?`, and with both; C reads 1 with A and B, else 0."""
LOGITS: Mapping[str, float] = MappingProxyType({"C": 10.0, "D": 10.5, "G": 3.0})
"""How much an answer's logit gains by an activation of 1; that of `.` is 4 everywhere, others are below 2."""

_LENGTH = 40.0  # of the direction that all rows have: what features add hardly changes a row's norm
_NOISE = 3.0
_D_MODEL, _HEADS, _HEAD_DIM, _NEURONS = 64, 8, 8, 16
_SLOW = 3  # of a head's channels one that RoPE hardly turns
_GATHERED = "ABEFS"
_NAMED = ("one", *WRITTEN_BY, *(f"{name}@?" for name in _GATHERED), "C", "D", "R")
_THRESHOLD = 0.25
_STEEP = 40.0


def make_planted_host() -> HostModel:
    """The host, in float32; three layers, d_model 64, the byte tokenizer."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=_D_MODEL,
        intermediate_size=_NEURONS,
        num_hidden_layers=3,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        max_position_embeddings=512,
        rope_theta=1e12,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=258,
        pad_token_id=258,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        _Planting().plant(model)
    return HostModel(model, byte_tokenizer(), name="planted")


def planted_saes(host: HostModel) -> LoadedSaes:
    """The SAEs EARLY and LATE, served by the host, with the planted features and letter features."""
    saes = LoadedSaes(host)
    for name, hook_point in HOOK_POINTS.items():
        sae = _sae(name)
        ones = torch.ones(D_SAE)
        metadata = SaeMetadata.describe(sae, name=name, model_name=host.name, hook_point=hook_point)
        statistics = FeatureStatistics(ones * 1.5, ones / 8, ones, ones == 0)
        labels = {ref.index: f"planted {feature}" for feature, ref in FEATURES.items() if ref.sae == name}
        notes = tuple(FeatureNote(i, labels.get(i, f"letters {i}"), (), (), ()) for i in range(D_SAE))
        saes.add(name, SaeBundle(sae=sae, metadata=metadata, statistics=statistics, notes=notes))
    saes.measure_norms()
    return saes


def true_acts(text: str) -> dict[str, list[float]]:
    """What each named feature reads on each character of an ASCII text, within 0.02, by plain rules."""
    acts = {name: [float(c in by) for c in text] for name, by in WRITTEN_BY.items()}
    gathered = {name: [_gathers(text[: t + 1], name) for t in range(len(text))] for name in _GATHERED}
    asks = acts["Q"]
    ors = [EITHER if e != f else BOTH * e * f for e, f in zip(gathered["E"], gathered["F"], strict=True)]
    return acts | {
        "C": [q * a * b for q, a, b in zip(asks, gathered["A"], gathered["B"], strict=True)],
        "D": [q * d for q, d in zip(asks, ors, strict=True)],
        "G": gathered["S"],
        "R": acts["P"],
        "A moved": gathered["A"],
        "A late": acts["A"],
    }


def _gathers(before: str, name: str) -> float:
    """A `?` takes a feature from any row so far; other rows avoid it, as long as there is another row."""
    writes = [c in WRITTEN_BY[name] for c in before]
    return float(any(writes) if before[-1] in WRITTEN_BY["Q"] else all(writes))


class _Planting:
    """Writes the circuit into a Llama's weights."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(6)
        basis = _basis()
        self.named = dict(zip(_NAMED, basis, strict=False))
        self.noise = basis[len(_NAMED) :]  # [others, d_model]
        # A norm without weights scales every row by almost the same factor; readers undo it.
        self.unit = (_LENGTH**2 + _NOISE**2 + 1) ** 0.5 / _D_MODEL**0.5
        self.one = self.named["one"] / _LENGTH  # reads 1 on every row

    def plant(self, model: LlamaForCausalLM) -> None:
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.dim() == 1 else 0.0)
        model.model.embed_tokens.weight.copy_(self.embedding())
        quiet, gathering, last = model.model.layers
        for layer in (quiet, last):
            self.shuffle_noise(layer)
        for head, name in enumerate(_GATHERED):
            self.gather(gathering.self_attn, head, name)
        self.compute(gathering.mlp)
        self.answer(model.lm_head.weight)

    def embedding(self) -> Tensor:
        noise = torch.randn(VOCAB_SIZE, len(self.noise), generator=self.generator)
        noise[[ord(character) for character in "".join(WRITTEN_BY.values())], -D_SAE:] = 0.0
        noise = noise @ self.noise
        rows = _NOISE * noise / noise.norm(dim=1, keepdim=True) + _LENGTH * self.named["one"]
        for name, characters in WRITTEN_BY.items():
            for character in characters:
                rows[ord(character)] += self.named[name]
        return rows

    def shuffle_noise(self, layer: torch.nn.Module) -> None:
        """A layer that is not idle, but reads and writes noise only."""
        attention, mlp = layer.self_attn, layer.mlp
        for into, out in ((attention.v_proj, attention.o_proj), (mlp.up_proj, mlp.down_proj)):
            into.weight.copy_(0.3 * self.random(len(into.weight), len(self.noise)) @ self.noise)
            out.weight.copy_(0.03 * self.noise.T @ self.random(len(self.noise), out.weight.shape[1]))
        gate = mlp.gate_proj.weight
        gate.copy_(0.3 * self.random(len(gate), len(self.noise)) @ self.noise)

    def gather(self, attention: torch.nn.Module, head: int, name: str) -> None:
        """Rows of `?` attend to the rows that have the feature, all others to the rows that have not."""
        first = head * _HEAD_DIM
        asks = 2 * self.named["Q"] - self.one
        attention.q_proj.weight[first + _SLOW] = _STEEP * _HEAD_DIM**0.5 * asks * self.unit
        attention.k_proj.weight[first + _SLOW] = self.named[name] * self.unit
        attention.v_proj.weight[first] = self.named[name] * self.unit
        attention.o_proj.weight[:, first] = self.named[f"{name}@?"]

    def compute(self, mlp: torch.nn.Module) -> None:
        a, b, e, f = (self.named[f"{name}@?"] for name in "ABEF")
        asks = self.named["Q"]
        self.neuron(mlp, 0, a + b + asks - 2.5 * self.one, 2.0 * self.named["C"])
        self.neuron(mlp, 1, e + f + asks - 1.1 * self.one, self.named["D"] / 0.9)
        self.neuron(mlp, 2, e + f + asks - 2.3 * self.one, -0.8 * self.named["D"] / 0.9)
        self.neuron(mlp, 3, self.named["P"] - 0.5 * self.one, 2.0 * self.named["R"])

    def neuron(self, mlp: torch.nn.Module, index: int, reads: Tensor, writes: Tensor) -> None:
        """Adds relu(x . reads) of `writes`, silu being relu where it is steep."""
        mlp.gate_proj.weight[index] = _STEEP * reads * self.unit
        mlp.up_proj.weight[index] = self.one * self.unit / _STEEP
        mlp.down_proj.weight[:, index] = writes

    def answer(self, head: Tensor) -> None:
        head.copy_(0.2 * self.random(len(head), len(self.noise)) @ self.noise * self.unit)
        head[ord(".")] += 4 * self.one * self.unit
        for answer, feature in zip(ANSWERS, "CD", strict=True):
            planted = LOGITS[feature] * self.named[feature] + LOGITS["G"] * self.named["S@?"]
            head[ord(answer)] = planted * self.unit

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator) / shape[-1] ** 0.5


def _basis() -> Tensor:
    """Orthonormal rows [d_model, d_model]."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(_D_MODEL, _D_MODEL, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(rows)[0].float()


def _sae(name: str) -> SparseAutoencoder:
    """Reads the planted directions at their places, and fixed noise directions at all others."""
    basis = _basis()
    named = dict(zip(_NAMED, basis, strict=False))
    directions = basis[-D_SAE:].clone()
    for feature, ref in FEATURES.items():
        if ref.sae == name:
            own = {"G": "S@?", "A moved": "A@?", "A late": "A"}.get(feature, feature)
            directions[ref.index] = named[own]
    return SparseAutoencoder(
        W_enc=directions.T.contiguous(),
        b_enc=torch.zeros(D_SAE),
        W_dec=directions,
        b_dec=_LENGTH * named["one"],
        activation=JumpReLU(torch.full((D_SAE,), _THRESHOLD)),
    )
