"""`forge`: repaint a region of a real frame as Polyp or Normal, drawing the lesion's exact mask together with its pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from polypforge.core.config import from_dict
from polypforge.core.console import console
from polypforge.core.types import Case
from polypforge.data.prepared import Prepared, prepare
from polypforge.diffusion.flow import mix
from polypforge.features import Encoder
from polypforge.features.denoiser import NOISE_TIME, DenoiserEncoder, fixed_noise
from polypforge.models.attribute_embedding import AttributeEmbedding
from polypforge.models.pixels import to_unit
from polypforge.recipes.base import Batch, Job, Recipe
from polypforge.recipes.forge import networks, sampling
from polypforge.recipes.forge.config import WHOLE_WAY, ForgeConfig
from polypforge.recipes.forge.detail_loss import drawn_texture_error, rebuilt_error
from polypforge.recipes.forge.examples import VECTOR_DIM, draw
from polypforge.recipes.forge.leap import MOST_LEAPT, TEXTURE_WEIGHT, Leap, leap_errors

LEAP_FILE = "leap.safetensors"
VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


class Forge(Recipe):
    name: ClassVar[str] = "forge"
    config_class: ClassVar[type] = ForgeConfig
    needs: ClassVar[frozenset[str]] = frozenset({"background"})
    removes: ClassVar[bool] = True
    steps_setting: ClassVar[str] = "base_steps"
    optional: ClassVar[tuple[str, ...]] = ("leap.",)

    def __init__(
        self,
        config: ForgeConfig,
        base: networks.BaseStage | None = None,
        detail: networks.DetailStage | None = None,
        leap: Leap | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.base = base or networks.BaseStage(config)
        self.detail = detail or networks.DetailStage(config)
        self.leap = leap or (Leap(self.base, config.leap_rank) if config.leap_rank else None)
        self.base.requires_grad_("base" in config.learns)
        self.detail.requires_grad_("detail" in config.learns)
        if self.leap is not None:
            self.leap.requires_grad_("leap" in config.learns)

    def prepare(self, cases: Sequence[Case]) -> list[Prepared]:
        return [prepare(case) for case in cases]

    def training_batch(self, pool: Sequence[Prepared], batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) in [-1, 1]; mask, region, field (B, 1, S, S) in {0, 1}; vector (B, V); exact (B,). float32."""
        examples = [draw(pool, self.config, rng) for _ in range(batch_size)]

        def planes(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(e, name) for e in examples])).float()[:, None]

        return {
            "image": to_unit(np.stack([e.image for e in examples])).contiguous(),
            "mask": planes("mask"),
            "region": planes("region"),
            "field": planes("field"),
            "vector": torch.from_numpy(np.stack([e.vector for e in examples])),
            "exact": torch.tensor([float(e.exact) for e in examples]),
        }

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        size = (self.config.detail_px, self.config.detail_px)
        planes = dict.fromkeys(("mask", "region", "field"), (count, 1, *size))
        return planes | {"image": (count, 3, *size), "vector": (count, VECTOR_DIM), "exact": (count,)}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        total, parts = batch["image"].new_zeros(()), {}
        if "base" in self.config.learns:
            target = networks.base_target(self.config, batch)
            parts["base"] = networks.base_loss(self.base, target, self._asked(target, batch), generator)
            total = total + parts["base"]
        if "detail" in self.config.learns:
            share = self.config.detail_batch_share if "base" in self.config.learns else 1.0
            few = max(1, round(len(batch["image"]) * share))
            parts["rebuilt"], parts["texture"] = self._detail_errors({k: v[:few] for k, v in batch.items()}, generator)
            total = total + parts["rebuilt"] + self.config.texture_weight * parts["texture"]
        if self.leap is not None and "leap" in self.config.learns:
            parts["leap"], parts["leap_texture"] = self._leap_errors(self.leap, batch, generator)
            total = total + parts["leap"] + TEXTURE_WEIGHT * parts["leap_texture"]
        return total, {name: value.detach() for name, value in parts.items()}

    def _leap_errors(self, leap: Leap, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        target = networks.base_target(self.config, batch)
        return leap_errors(leap, self.base, target, self._asked(target, batch), generator)

    def _detail_errors(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`rebuilt_error` and `drawn_texture_error` of what the detail stage draws."""
        target, coarse = self._detail_target(batch, generator)
        noise = torch.randn(target.state.shape, generator=generator).to(target.state)
        drawn = self.detail(noise, coarse, target.context)
        texture = drawn_texture_error(drawn, target, self.config.detail.patch_px, generator)
        return rebuilt_error(drawn, target, self._factor), texture

    def _detail_target(self, batch: Batch, generator: torch.Generator) -> tuple[networks.Target, Tensor]:
        target = networks.base_target(self.config, batch)
        drawn = networks.foreseen(self.base, target, self._asked(target, batch), generator)
        return networks.detail_target(self.config, batch, drawn, generator, crop=True)

    @property
    def _factor(self) -> int:
        return self.config.detail_px // self.config.base_px

    def _asked(self, target: networks.Target, batch: Batch) -> dict[str, Tensor]:
        return {"context": target.context, "vector": batch["vector"]}

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(seed)
        losses = {}
        if "base" in self.config.learns:
            target = networks.base_target(self.config, batch)
            for time in VALIDATION_TIMES:
                losses[f"base@{time}"] = networks.clean_error(self.base, target, self._asked(target, batch), time, generator)
        if self.leap is not None and "leap" in self.config.learns:
            losses["leap"], losses["leap_texture"] = map(float, self._leap_errors(self.leap, batch, generator))
        if "detail" in self.config.learns:
            losses["detail"], losses["texture"] = map(float, self._detail_errors(batch, generator))
        return losses

    @property
    def leaps(self) -> bool:
        """Whether steps set out with the leap: it has learned what few steps lack, and nothing of guidance."""
        return self.leap is not None and self.config.base_steps <= MOST_LEAPT and self.config.guidance == 1

    def without_leap(self) -> Self:
        """The same stages, to be trained on: a leap belongs to weights as they are, and so do few steps."""
        if self.leap is None:
            return self
        stages = tuple(part for part in self.config.learns if part != "leap") or ("base", "detail")
        steps = WHOLE_WAY if self.leaps else self.config.base_steps
        return type(self)(replace(self.config, base_steps=steps, leap_rank=0, learns=stages), self.base, self.detail)

    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        return sampling.generate(self.config, self.base, self.detail, self.leap if self.leaps else None, jobs)

    def redraw(self, jobs: Sequence[Job], drafts: Sequence[Case], strength: float) -> list[Case]:
        """As `generate`, but each job sets out from a draft of its result: image and mask of the whole frame, the lesion in its place.

        strength: noise level in 0..1 from which the base stage draws: the nearer to 0, the more of the draft stays. What the lesion should
        be like is measured from the draft. Raises UserError for a draft that shows no lesion in the region.
        """
        return sampling.generate(self.config, self.base, self.detail, None, jobs, sampling.Drafts(drafts, strength))

    def encoder(self) -> Encoder:
        """Of the base stage, with no region to repaint and nothing asked for."""

        def run(image: Tensor) -> Tensor:
            state = torch.cat([image, -torch.ones_like(image[:, :1])], 1)
            time = torch.full((len(image),), 1 - NOISE_TIME, device=image.device)
            nothing = torch.zeros_like(image[:, :1])
            seen = {"context": networks.context(image, nothing, nothing + 1), "vector": image.new_zeros(len(image), VECTOR_DIM)}
            return self.base(mix(state, fixed_noise(state), time), time, seen)

        return DenoiserEncoder(self.base, self.base.unet.up_blocks[0], run, 2 * self.config.base_px)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.base.unet.save_pretrained(folder / "base_unet")
        self.base.embedding.save_pretrained(folder / "base_embedding")
        self.detail.unet.save_pretrained(folder / "detail_unet")
        if self.leap is not None:
            save_file({k: v.contiguous() for k, v in self.leap.state_dict().items()}, folder / LEAP_FILE)
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        stored = json.loads((folder / "config.json").read_text())["config"]
        for gone in ("detail_time", "detail_steps", "fooling_weight"):  # of detail stages that were diffusion models, or had a critic
            stored.pop(gone, None)
        if stored.pop("few_steps", None):
            console.print(f"{folder}: its few steps were fitted, which forge no longer does; `polypforge distill` teaches better ones.")
        for later in ("grain", "glints"):  # weights from before these were thought of draw what they drew
            stored.setdefault(later, 0.0)
        config = from_dict(ForgeConfig, stored, str(folder / "config.json"))
        base_unet = UNet2DModel.from_pretrained(folder / "base_unet", local_files_only=True, use_safetensors=True)
        embedding = AttributeEmbedding.from_pretrained(folder / "base_embedding", local_files_only=True, use_safetensors=True)
        detail_unet = UNet2DModel.from_pretrained(folder / "detail_unet", local_files_only=True, use_safetensors=True)
        if (folder / "detail_head").is_dir():
            raise ValueError("its detail stage draws with a head that forge no longer has: train it again")
        base = networks.BaseStage(config, base_unet, embedding)
        leap = Leap.of(base, load_file(folder / LEAP_FILE)) if config.leap_rank else None
        return cls(config, base, networks.DetailStage(config, detail_unet), leap)
