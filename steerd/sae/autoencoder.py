"""The sparse autoencoder in its one plain form.

Shapes: x and reconstructions are [..., d_model], feature_acts [..., d_sae]; usually one row a token position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.sae.activation_function import ActivationFunction, JumpReLU


@dataclass(frozen=True, slots=True, eq=False)
class SparseAutoencoder:
    """feature_acts = activation(x @ W_enc + b_enc) and x_hat = feature_acts @ W_dec + b_dec, nothing else.

    W_enc [d_model, d_sae], b_enc [d_sae], W_dec [d_sae, d_model], b_dec [d_model], all of one dtype and
    device: float32 for every SAE that was loaded. Inputs are brought to that dtype, whatever the host's is.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    activation: ActivationFunction

    def __post_init__(self) -> None:
        d_model, d_sae = self.W_enc.shape
        assert self.b_enc.shape == (d_sae,), f"b_enc is {tuple(self.b_enc.shape)}, not {(d_sae,)}"
        assert self.W_dec.shape == (d_sae, d_model), f"W_dec is {tuple(self.W_dec.shape)}"
        assert self.b_dec.shape == (d_model,), f"b_dec is {tuple(self.b_dec.shape)}, not {(d_model,)}"
        if isinstance(self.activation, JumpReLU):
            assert self.activation.threshold.shape == (d_sae,), "one threshold a feature"

    @property
    def d_model(self) -> int:
        """Width of the stream it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Activations of every feature, [..., d_sae]."""
        return self.activation(x.to(self.W_enc.dtype) @ self.W_enc + self.b_enc)

    def decode(self, feature_acts: Tensor) -> Tensor:
        """The reconstruction, [..., d_model]."""
        return feature_acts @ self.W_dec + self.b_dec

    def feature_acts(self, x: Tensor, features: Sequence[int]) -> Tensor:
        """Activations of these features, [..., len(features)].

        Costs only their columns when the activation function is columnwise; a TopK SAE encodes everything.
        """
        index = torch.as_tensor(features, dtype=torch.long, device=self.W_enc.device)
        if not self.activation.columnwise:
            return self.encode(x)[..., index]
        pre_acts = x.to(self.W_enc.dtype) @ self.W_enc[:, index] + self.b_enc[index]
        return self.activation.columns(index)(pre_acts)

    def response(self, feature: int) -> float:
        """How far a feature's own pre-activation moves for each unit of its direction that is added."""
        return float(self.W_enc[:, feature] @ self.W_dec[feature])

    def to(
        self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None
    ) -> SparseAutoencoder:
        """The same autoencoder, on the device and in the dtype, where given."""
        return SparseAutoencoder(
            W_enc=self.W_enc.to(device=device, dtype=dtype),
            b_enc=self.b_enc.to(device=device, dtype=dtype),
            W_dec=self.W_dec.to(device=device, dtype=dtype),
            b_dec=self.b_dec.to(device=device, dtype=dtype),
            activation=self.activation.to(device=device, dtype=dtype),
        )
