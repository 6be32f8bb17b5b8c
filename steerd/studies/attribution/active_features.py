"""A prompt's rows at one hook point as an SAE explains them: features, and what they leave unexplained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steerd.steering.loaded_saes import LoadedSae


@dataclass(frozen=True, slots=True, eq=False)
class ActiveFeatures:
    """Rows x [tokens, d_model] as decode(z) + error, exactly, of which the features of some rows are nodes.

    By node, each [nodes]: `positions` and `features`, and the activation `acts`, in the order of positions.
    `counted` [tokens] says which rows have nodes; `error` [tokens, d_model] is zero in the others.
    """

    sae: LoadedSae
    counted: Tensor
    positions: Tensor
    features: Tensor
    acts: Tensor
    error: Tensor

    @classmethod
    def of(cls, sae: LoadedSae, rows: Tensor, counted: Tensor) -> ActiveFeatures:
        """Encode rows [tokens, d_model], of which those that are `counted` [tokens] have nodes."""
        x = rows.to(sae.sae.W_enc.dtype)
        acts = sae.sae.encode(x)  # [tokens, d_sae]
        error = (x - sae.sae.decode(acts)) * counted.unsqueeze(1)
        acts = acts * counted.unsqueeze(1)
        positions, features = acts.nonzero(as_tuple=True)
        return cls(
            sae=sae,
            counted=counted,
            positions=positions,
            features=features,
            acts=acts[positions, features],
            error=error,
        )

    def __len__(self) -> int:
        return len(self.acts)

    def effects(self, gradient: Tensor) -> Tensor:
        """By node, activation times the gradient [tokens, d_model] along its direction: [nodes]."""
        along = gradient @ self.sae.sae.W_dec.T  # [tokens, d_sae]
        return self.acts * along[self.positions, self.features]

    def vectors(self, nodes: Tensor) -> Tensor:
        """What these nodes add to their rows: [len(nodes), d_model]."""
        return self.acts[nodes].unsqueeze(1) * self.sae.sae.W_dec[self.features[nodes]]
