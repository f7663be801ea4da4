"""A denoiser's own features: what its network makes of a frame with a little noise (Tang et al. 2023, "DIFT")."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from polypforge.diffusion.gaussian import GaussianDiffusion
from polypforge.features.base import Encoder, unit_grid

NOISE_TIME = 0.2  # share of the schedule at which the network is asked


class DenoiserEncoder(Encoder):
    """Calls `run(image)`, one pass of the network over (B, 3, S, S) in [-1, 1] with S = look_px; features are what `layer` gives."""

    def __init__(self, network: nn.Module, layer: nn.Module, run: Callable[[Tensor], object], look_px: int) -> None:
        super().__init__()
        self.network, self.layer, self.run, self.look_px = network, layer, run, look_px
        device = next(network.parameters()).device
        with torch.no_grad():
            self.patch_px = look_px // self._map(torch.zeros(1, 3, look_px, look_px, device=device)).shape[-1]

    def _map(self, image: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = self.layer.register_forward_hook(lambda m, i, o: found.append(o[0] if isinstance(o, tuple) else o))
        try:
            self.run(image)
        finally:
            hook.remove()
        return found[0]

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self._map(image)]

    def patches(self, image: Tensor) -> Tensor:
        return unit_grid(self._map(image))


def slightly_noised(diffusion: GaussianDiffusion, clean: Tensor) -> tuple[Tensor, Tensor]:
    """(state, times (B,)) of `clean` (B, C, H, W) at NOISE_TIME, with `fixed_noise`."""
    times = diffusion.at(NOISE_TIME, len(clean))
    return diffusion.noised(clean, fixed_noise(clean), times), times.to(clean.device)


def fixed_noise(clean: Tensor) -> Tensor:
    """Noise of the shape of `clean` (B, C, H, W), the same for every image and call: features depend on the frame alone."""
    return torch.randn((1, *clean.shape[1:]), generator=torch.Generator().manual_seed(0)).to(clean).expand_as(clean)
