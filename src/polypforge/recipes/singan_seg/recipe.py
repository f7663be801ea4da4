"""`singan_seg`: one four-channel GAN for each image, image and mask together, over several scales (SinGAN-Seg), a baseline.

The authors train scale after scale and image after image. Here all scales and all images learn in one step: each scale sees the coarser
one's output without sending gradients back, which is the same objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Case
from polypforge.data.prepared import prepare
from polypforge.diffusion.noise import SampleNoise
from polypforge.models.pixels import to_pixels, to_planes, to_unit
from polypforge.recipes.base import Batch, Job, Recipe
from polypforge.recipes.colour_transfer import colour_transfer
from polypforge.recipes.singan_seg.networks import STATE, Scale, gradient_penalty, resized, sizes
from polypforge.recipes.windows import main_part, square_window, whole_frame


@dataclass(frozen=True)
class SinGANSegConfig:
    """images: how many of the cases get a GAN. size_px, least_px, factor: the pyramid. width, layers: of each network. reconstruction,
    penalty: weights of those losses. noise: share of the reconstruction error that the noise of a scale has. start: scale from which on
    generation is random (0: all; later scales keep more of the source). seed: which images."""

    images: int = 8
    size_px: int = 96
    least_px: int = 24
    factor: float = 0.75
    width: int = 24
    layers: int = 5
    reconstruction: float = 10.0
    penalty: float = 0.1
    noise: float = 0.1
    start: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.3 <= self.factor < 1 or not 16 <= self.least_px <= self.size_px:
            raise ValueError("factor lies between 0.3 and 1, least_px between 16 and size_px")
        if self.images < 1 or self.layers < 2 or not 0 <= self.start < len(sizes(self.size_px, self.least_px, self.factor)):
            raise ValueError("images is at least 1, layers at least 2, start a scale of the pyramid")


class SinGANSeg(Recipe):
    name: ClassVar[str] = "singan_seg"
    knows_cases: ClassVar[bool] = False  # its images are part of it
    config_class: ClassVar[type] = SinGANSegConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    real: Tensor  # (M, 4, S, S): the images

    def __init__(self, config: SinGANSegConfig) -> None:
        super().__init__()
        self.config = config
        self.sizes = sizes(config.size_px, config.least_px, config.factor)
        self.scales = nn.ModuleList(Scale(config.images, config.width, config.layers) for _ in self.sizes)
        self.names: list[tuple[str, str]] = []  # name and group of each GAN's image
        self.register_buffer("real", torch.zeros(config.images, STATE, config.size_px, config.size_px), persistent=False)

    def fit(self, cases: Sequence[Case]) -> None:
        """Choose the images. Raises UserError when there are fewer with a lesion than asked for."""
        usable = [prepare(c) for c in cases if c.mask is not None and c.mask.any()]
        if len(usable) < self.config.images:
            raise UserError(f"singan_seg was asked for {self.config.images} images, but {len(usable)} show a lesion: lower model.images.")
        picks = numpy_rng(self.config.seed, "singan images").permutation(len(usable))[: self.config.images]
        looks = [usable[i].look(square_window(usable[i]), self.config.size_px)[:2] for i in picks]
        self.names = [(usable[i].case.name, usable[i].case.group) for i in picks]
        images, masks = to_unit(np.stack([i for i, _ in looks])), to_planes([m for _, m in looks])
        self.real.copy_(torch.cat([images, masks * 2 - 1], 1))

    def prepare(self, cases: Sequence[Case]):
        return [prepare(case) for case in cases if case.mask is not None]

    def training_batch(self, pool, batch_size: int, rng: np.random.Generator) -> Batch:
        """A GAN's only data are its image, which the module holds; the batch just counts: (batch_size,)."""
        return {"count": torch.zeros(batch_size)}

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        return {"count": (count,)}

    def _pyramid(self) -> list[Tensor]:
        """The real images at each scale, (1, M * 4, s, s)."""
        return [resized(self.real, side).flatten(0, 1)[None] for side in self.sizes]

    def _anchor(self, like: Tensor) -> Tensor:
        """The fixed noise from which the coarsest scale must give back the image."""
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(self.config.seed)).to(like)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        rows = len(batch["count"])
        rebuilt = made = None
        total = self.real.new_zeros(())
        parts = {"critic": total.clone(), "rebuilt": total.clone()}
        for scale, real in zip(self.scales, self._pyramid(), strict=True):
            shape = (rows, *real.shape[1:])
            noise = torch.randn(shape, generator=generator).to(real)
            if rebuilt is None or made is None:
                rebuilt, made = scale.draw(self._anchor(real), torch.zeros_like(real)), scale.draw(noise, torch.zeros(shape).to(real))
            else:
                below = resized(rebuilt.detach(), real.shape[-1])
                strength = config.noise * _spread(below - real)
                rebuilt = scale.draw(torch.zeros_like(real), below)
                made = scale.draw(strength * noise, resized(made.detach(), real.shape[-1]))
            error = (rebuilt - real).square().mean()
            critic: nn.Module = scale.critic
            held = {k: v.detach() for k, v in critic.named_parameters()}
            fooling = -functional_call(critic, held, (made,)).mean()
            share = torch.rand(rows, 1, 1, 1, generator=generator).to(real)
            fake = made.detach()
            judged = scale.critic(fake).mean() - scale.critic(real).mean()
            penalty = gradient_penalty(scale.critic, real, fake, share)
            total = total + config.reconstruction * error + fooling + judged + config.penalty * penalty
            parts["critic"] = parts["critic"] + judged.detach()
            parts["rebuilt"] = parts["rebuilt"] + error.detach()
        return total, parts

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        """How well each scale gives back its images."""
        rebuilt: Tensor | None = None
        found = {}
        for scale, real in zip(self.scales, self._pyramid(), strict=True):
            if rebuilt is None:
                rebuilt = scale.draw(self._anchor(real), torch.zeros_like(real))
            else:
                rebuilt = scale.draw(torch.zeros_like(real), resized(rebuilt, real.shape[-1]))
            found[f"rebuilt@{real.shape[-1]}"] = float((rebuilt - real).square().mean())
        return found

    @torch.no_grad()
    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        """Request k draws from GAN number (seed modulo their count)."""
        config, device = self.config, self.real.device
        noise = SampleNoise([j.request.seed for j in jobs])
        picks = [j.request.seed % config.images for j in jobs]
        rows = len(jobs)
        made: Tensor | None = None
        rebuilt: Tensor | None = None
        for k, (scale, real) in enumerate(zip(self.scales, self._pyramid(), strict=True)):
            side = real.shape[-1]
            random = noise.draw((STATE, side, side), device).repeat(1, config.images, 1, 1)
            if made is None or rebuilt is None:
                rebuilt = scale.draw(self._anchor(real), torch.zeros_like(real))
                made = scale.draw(random, torch.zeros_like(random)) if config.start == 0 else rebuilt.expand(rows, -1, -1, -1)
                continue
            below = resized(rebuilt, side)
            strength = config.noise * _spread(below - real) * float(k >= config.start)
            if k == config.start:  # where randomness sets in, its noise is what tells the samples apart
                strength = 5 * strength
            rebuilt = scale.draw(torch.zeros_like(real), below)
            made = scale.draw(strength * random, resized(made, side))
        assert made is not None
        own = made.reshape(rows, config.images, STATE, config.size_px, config.size_px)[torch.arange(rows), picks]
        images, sources = to_pixels(own[:, :3]), to_pixels(self.real[torch.tensor(picks)][:, :3])
        masks = [main_part(m) for m in (own[:, 3] > 0).cpu().numpy()]
        results = zip(jobs, images, sources, masks, picks, strict=True)
        return [whole_frame(j, colour_transfer(i, s), m, self.names[p][1]) for j, i, s, m, p in results]

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        save_file(state | {"real": self.real.cpu().contiguous()}, folder / "model.safetensors")
        self.save_config(folder, images=self.names)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        stored = read_json(folder / "config.json")
        model = cls(from_dict(SinGANSegConfig, stored["config"], str(folder / "config.json")))
        state = load_file(folder / "model.safetensors")
        model.real.copy_(state.pop("real"))
        model.load_state_dict(state)
        model.names = [tuple(pair) for pair in stored["images"]]
        return model


def _spread(difference: Tensor) -> Tensor:
    """(1, M * 4, 1, 1): root mean square of each image's own error, the same for its four channels."""
    images = difference.shape[1] // STATE
    each = difference.reshape(1, images, STATE, *difference.shape[2:]).square().mean((2, 3, 4)).sqrt()
    return each.repeat_interleave(STATE, 1).view(1, -1, 1, 1)
