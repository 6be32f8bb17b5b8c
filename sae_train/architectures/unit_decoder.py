"""The constraint that decoder rows have norm 1: kept to first order by the gradient, then exactly."""

from __future__ import annotations

import torch

from sae_train.architectures.trainable_sae import TrainableSae


class UnitDecoderSae(TrainableSae):
    """A trainable SAE whose decoder rows have norm 1 after every step."""

    @torch.no_grad()
    def constrain_gradient(self) -> None:
        """Take from each decoder row's gradient the part along the row, which would change its norm."""
        assert self.W_dec.grad is not None
        along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec).unsqueeze(1)  # [d_sae, 1]
        self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)

    @torch.no_grad()
    def constrain_parameters(self) -> None:
        """Bring every decoder row back to norm 1."""
        self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))
