"""From a request's class and attributes to the vector that a U-Net adds to its time embedding."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class AttributeEmbedding(ModelMixin, ConfigMixin):
    """A two-layer perceptron: (B, in_dim) float32 -> (B, out_dim). All zeros in means "nothing was asked"."""

    @register_to_config
    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))

    def forward(self, vector: Tensor) -> Tensor:
        return self.layers(vector.to(torch.float32))
