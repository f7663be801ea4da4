"""The last look at full resolution: a network over patches of pixels draws each patch by itself, which leaves steps on their borders."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class PixelHead(ModelMixin, ConfigMixin):
    """Two convolutions that correct `drawn` (B, out, H, W), seeing it and `seen` (B, beside, H, W). It starts by changing nothing."""

    @register_to_config
    def __init__(self, out: int, beside: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(out + beside, width, 5, 1, 2), nn.SiLU(), nn.Conv2d(width, out, 3, 1, 1))
        last = self.layers[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, drawn: Tensor, seen: Tensor) -> Tensor:
        return drawn + self.layers(torch.cat([drawn, seen], 1)).float()
