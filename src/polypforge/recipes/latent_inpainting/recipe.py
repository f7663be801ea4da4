"""What Polyp-Gen, DiffAug, blended latent diffusion and ControlNet inpainting share: windows, latents, prompts, sampling, paste-back.

A subclass says how the network is told what to keep (`condition`), which regions and prompts it learns from (`draw`), and its objective.
"""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polypforge.core.config import from_dict
from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.seeding import numpy_rng, seed_from
from polypforge.core.types import NORMAL, Case, Image, Mask
from polypforge.data.prepared import Prepared, draw_case, prepare, random_window
from polypforge.diffusion.gaussian import Errors, GaussianDiffusion
from polypforge.diffusion.guidance import guided
from polypforge.diffusion.noise import SampleNoise
from polypforge.diffusion.repaint import keep_known
from polypforge.diffusion.samplers import SAMPLERS, ddim
from polypforge.features import Encoder
from polypforge.features.denoiser import DenoiserEncoder, slightly_noised
from polypforge.masks.shapes import bounding_box, box_mask, enlarge
from polypforge.models.fill import smooth_fill
from polypforge.models.latent_backbone import BackboneConfig, LatentBackbone, build_backbone, load_backbone
from polypforge.models.latent_cache import LatentCache
from polypforge.models.locate import locate, weights_hash
from polypforge.models.pixels import to_planes, to_unit
from polypforge.models.precision import fast_inference
from polypforge.recipes.base import Batch, Job, Recipe
from polypforge.recipes.latent_inpainting.config import LatentInpaintingConfig
from polypforge.recipes.latent_inpainting.schedule import diffusion_of
from polypforge.recipes.windows import View, asked_lesion, channels_last, finished

BASE = "base.json"  # beside an adapter: the hash of the weights that it adapts
MISSES = 200  # windows without a usable region, for each example, before giving up
CHANNELS, BLEND, CONTROL = "channels", "blend", "control"


@dataclass
class Example:
    """A window: image (S, S, 3) uint8; region to repaint, lesion in it, field of view (S, S) bool; its prompt; the cache's key."""

    image: Image
    region: Mask
    lesion: Mask
    field: Mask
    prompt: str
    key: int


@dataclass(frozen=True)
class Seen:
    """What a window shows: image (S, S, 3) uint8; one lesion (empty: none), all lesions, and the field of view (S, S) bool; whether the
    lesion's outline is exact (else it is a box); area of the whole frame's field in pixels of the window."""

    image: Image
    lesion: Mask
    lesions: Mask
    field: Mask
    exact: bool
    field_area_px: float


class LatentInpainting(Recipe):
    needs: ClassVar[frozenset[str]] = frozenset({"background", "mask", "prompt"})
    removes: ClassVar[bool] = True
    condition: ClassVar[str] = CHANNELS
    polyp_prompt: ClassVar[str] = "polyp"
    normal_prompt: ClassVar[str] = "normal mucosa"
    words: ClassVar[tuple[str, ...]] = ("polyp", "normal", "mucosa")  # what a text encoder learned from scratch knows
    config: LatentInpaintingConfig

    def __init__(self, config: LatentInpaintingConfig, backbone: LatentBackbone | None = None) -> None:
        super().__init__()
        self.config = config
        channels = 9 if self.condition == CHANNELS else 4
        self.backbone = backbone or build_backbone(config.backbone, channels, self.words, self.condition == CONTROL)
        self.diffusion = GaussianDiffusion(diffusion_of(self.backbone.scheduler, config.snr_gamma))
        self._refuse_steps(config)
        self.cache = LatentCache()
        self._noticed: set[str] = set()

    def set_steps(self, steps: int) -> None:
        chosen = self.with_steps(self.config, steps)
        self._refuse_steps(chosen)
        self.config = chosen

    def _refuse_steps(self, config: LatentInpaintingConfig) -> None:
        """Only the backbone knows how many times its schedule has."""
        try:
            if config.spacing == "even":
                self.diffusion.config.schedule.refuse_steps(config.steps)
        except ValueError as error:
            raise UserError(f"steps: {config.steps}: {error}.") from None

    # Training

    def prepare(self, cases: Sequence[Case]) -> list[Prepared]:
        return [prepare(case) for case in cases]

    @abstractmethod
    def draw(self, seen: Seen, rng: np.random.Generator) -> tuple[Mask, Mask, str] | None:
        """(region to repaint, lesion in it, prompt) for a window; None when nothing fits."""

    def objective(self, errors: Errors, region: Tensor, lesion: Tensor, clean: Tensor) -> Tensor:
        """The loss, from errors of each latent element; region and lesion are (B, 1, h, w) in {0, 1}, clean the true latents."""
        return errors.mean()

    def training_batch(self, pool: Sequence[Prepared], batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) in [-1, 1]; region, lesion, field (B, 1, S, S); ids (B, E, L) tokens; key (B,) int64."""
        examples: list[Example] = []
        for _ in range(MISSES * batch_size):
            if len(examples) == batch_size:
                break
            example = self._example(draw_case(pool, rng), int(rng.integers(self.config.views)), rng)
            if example is not None:
                examples.append(example)
        if len(examples) < batch_size:
            raise UserError("the frames offer too few regions to learn from: are the masks full, or the frames black?")
        prompts = ["" if rng.random() < self.config.prompt_dropout else e.prompt for e in examples]
        return {
            "image": to_unit(np.stack([e.image for e in examples])),
            "region": to_planes([e.region for e in examples]),
            "lesion": to_planes([e.lesion for e in examples]),
            "field": to_planes([e.field for e in examples]),
            "ids": self.backbone.text.tokenize(prompts),
            "key": torch.tensor([e.key for e in examples]),
        }

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        size = (self.config.size_px, self.config.size_px)
        planes: dict[str, tuple[int, ...]] = dict.fromkeys(("region", "lesion", "field"), (count, 1, *size))
        return planes | {"image": (count, 3, *size), "ids": (count, *self.backbone.text.shape), "key": (count,)}

    def _example(self, chosen: Prepared, view: int, rng: np.random.Generator) -> Example | None:
        """View number `view` of a frame is always the same window, so that its latents are computed once; regions and prompts vary."""
        case, size = chosen.case, self.config.size_px
        placed = numpy_rng("view", case.name, view)
        height, width = chosen.field.shape
        target = np.zeros(case.size, bool)
        if chosen.boxes:
            x0, y0, x1, y1 = chosen.boxes[placed.integers(len(chosen.boxes))]
            side = max(self.config.min_window_px, max(x1 - x0, y1 - y0) * float(np.exp(placed.uniform(np.log(1.5), np.log(3.2)))))
            window = random_window((x0 + x1) / 2, (y0 + y1) / 2, side, 0.12, placed)
            target = box_mask((x0, y0, x1, y1), case.size)
        else:
            side = min(height, width) * float(placed.uniform(0.4, 0.95))
            window = random_window(placed.uniform(0.3, 0.7) * width, placed.uniform(0.3, 0.7) * height, side, 0.1, placed)
        image, mask, field = chosen.look(window, size)
        boxed = window.crop_mask(target, size)
        exact = case.mask is not None
        lesions = mask
        if not exact:
            lesions = np.any([window.crop_mask(box_mask(b, case.size), size) for b in chosen.boxes], axis=0) if chosen.boxes else boxed
        area = chosen.field_area_px * (size / window.side_px) ** 2
        drawn = self.draw(Seen(image, mask & boxed if exact else boxed, lesions, field, exact, area), rng)
        if drawn is None or not drawn[0].any():
            return None
        region, lesion, prompt = drawn
        content = zlib.crc32(np.ascontiguousarray(image).tobytes())
        return Example(image, region, lesion, field, prompt, seed_from(case.name, view, size, content))

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        clean, cond, region, lesion = self._encoded(batch)
        errors = self.diffusion.errors(self.backbone.network, clean, cond, generator)
        total = self.objective(errors, region, lesion, clean)
        return total, {"loss": total.detach(), "error": errors.each.detach().mean()}

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        clean, cond, _, _ = self._encoded(batch)
        return self.diffusion.validation(self.backbone.network, clean, cond, seed)

    def _encoded(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        """(clean latents, conditions, region and lesion at the latents' size). Only images that the cache lacks are encoded, and the
        masked image, which is new each time; the masked pass runs without gradient in the training precision."""
        image, region = batch["image"], batch["region"]
        vae = self.backbone.vae
        if image.is_meta:  # a dry run asks for what most steps cost, and those find them in the cache
            clean = image.new_empty(len(image), vae.channels, *(side // vae.factor for side in image.shape[2:]))
        else:
            clean = self.cache.get(batch["key"], image, vae.encode)
        cond = self.backbone.conditions(batch["ids"]) | self._known(image, region, batch["lesion"], batch["field"])
        small = F.max_pool2d(region, self.backbone.vae.factor)
        return clean, cond, small, (F.avg_pool2d(batch["lesion"], self.backbone.vae.factor) >= 0.5).float()

    # What the network is shown

    def _known(self, image: Tensor, region: Tensor, lesion: Tensor, field: Tensor) -> dict[str, Tensor]:
        if self.condition == CHANNELS:
            latents = self.backbone.vae.encode(self._masked(image, region, field))
            # Coarser than the latent grid a mask may not get: any touched latent is repainted.
            return {"extra": torch.cat([F.max_pool2d(region, self.backbone.vae.factor), latents], 1)}
        if self.condition == CONTROL:  # "mask over image": the surroundings with the lesion painted white
            shown = torch.where(lesion > 0.5, torch.ones_like(image), self._masked(image, region, field))
            return {"control": (shown + 1) / 2}
        return {}

    def _masked(self, image: Tensor, region: Tensor, field: Tensor) -> Tensor:
        if self.config.fill == "blank":
            return image * (1 - region)
        return image * (1 - region) + smooth_fill(image, (1 - region) * field) * region

    # Generation

    def prompt_of(self, job: Job) -> str:
        """The request's own prompt, or the one that its label and attributes mean to this recipe."""
        return job.request.prompt or self.default_prompt(job)

    def default_prompt(self, job: Job) -> str:
        return self.normal_prompt if is_normal(job) else self.polyp_prompt

    def negative_prompt(self) -> str:
        return self.config.negative_prompt

    def region_of(self, view: View, lesion: Mask) -> Mask:
        """Where the network repaints, within the request's region."""
        return view.region

    @torch.no_grad()
    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        config, device = self.config, next(self.backbone.unet.parameters()).device
        views = [View.of(job, config.window_scale, config.min_window_px) for job in jobs]
        lesions = [asked_lesion(job, view) for job, view in zip(jobs, views, strict=True)]
        regions = [self.region_of(view, lesion) for view, lesion in zip(views, lesions, strict=True)]
        views = [replace(view, region=region) for view, region in zip(views, regions, strict=True)]
        image, region, field = (torch.stack(p).to(device) for p in zip(*(v.planes(config.size_px) for v in views), strict=True))
        lesion = torch.stack([v.plane(m, config.size_px) for v, m in zip(views, lesions, strict=True)]).to(device)
        prompts = [self.prompt_of(job) for job in jobs]
        self._notice(prompts)
        with fast_inference(device):
            latents = self._sample(image, region, lesion, field, prompts, [j.request.seed for j in jobs])
            drawn = channels_last(self._decoded(latents, image, region, field).clamp(-1, 1))
        return [finished(j, v.region, v.field, v.paste(v.enlarged(d)), m) for j, v, d, m in zip(jobs, views, drawn, lesions, strict=True)]

    def _sample(self, image: Tensor, region: Tensor, lesion: Tensor, field: Tensor, prompts: list[str], seeds: list[int]) -> Tensor:
        config, backbone = self.config, self.backbone
        noise = SampleNoise(seeds)
        sigmas = self.diffusion.spaced(config.steps, config.spacing).to(image.device)
        known = self._known(image, region, lesion, field)
        small = F.max_pool2d(region, backbone.vae.factor)
        side = config.size_px // backbone.vae.factor
        shape = (backbone.vae.channels, side, side)
        source, after = None, None
        if self.condition != CHANNELS:  # the surroundings are kept by blending them in after every step
            source = backbone.vae.encode(self._masked(image, region, field) if config.fill == "smooth" else image)
            after = keep_known(source, small, noise)
            sigmas = sigmas[int(config.skip * (len(sigmas) - 1)) :]
        # With the first steps left out the source lies under the noise; else nothing is known of it.
        skipped = source is not None and config.skip > 0
        x = source + sigmas[0] * noise.draw(shape, image.device) if skipped else noise.start(shape, sigmas[0])
        asked, null = (self._text(p, image.device) | known for p in (prompts, [self.negative_prompt()] * len(prompts)))
        least, most = config.guided_sigmas
        denoise = guided(self.diffusion.denoiser(backbone.network), config.guidance, most, least)
        sample = ddim(config.eta) if config.sampler == "ddim" else SAMPLERS[config.sampler]
        return sample(denoise, x, sigmas, (asked, null), noise, after)

    def _decoded(self, latents: Tensor, image: Tensor, region: Tensor, field: Tensor) -> Tensor:
        """Decoded latents, less the tint that the first stage gives to what it decodes: the difference between the surroundings and
        their own reconstruction, carried smoothly into the region. Nothing of what the region held takes part."""
        known = (1 - region) * field
        vae = self.backbone.vae
        filled = image * (1 - region) + smooth_fill(image, known) * region
        tint = F.avg_pool2d(filled - vae.decode(vae.encode(filled)), 9, 1, 4, count_include_pad=False)
        return vae.decode(latents) + smooth_fill(tint, known)

    def _text(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        return self.backbone.conditions(self.backbone.text.tokenize(prompts).to(device))

    def _notice(self, prompts: Sequence[str]) -> None:
        for prompt in {*prompts} - self._noticed:
            unknown = self.backbone.text.unknown_words(prompt)
            self._noticed.add(prompt)
            if unknown:
                console.print(f"Notice: the text encoder of these weights doesn't know {', '.join(unknown)} (prompt '{prompt}').")

    def encoder(self) -> Encoder:
        """Told nothing, with no region to repaint."""

        def run(image: Tensor) -> Tensor:
            state, times = slightly_noised(self.diffusion, self.backbone.vae.encode(image))
            nothing = torch.zeros_like(image[:, :1])
            known = self._known(image, nothing, nothing, nothing + 1)
            return self.backbone.network(state, times, self._text([""] * len(image), image.device) | known)

        return DenoiserEncoder(self.backbone, self.backbone.unet.up_blocks[0], run, self.config.size_px)

    # Files

    def save_pretrained(self, folder: Path) -> None:
        """A diffusers pipeline with our config.json beside it; with LoRA only the adapter, which needs its base weights again."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.config.backbone.lora_rank:
            if self.backbone.control is not None:
                self.backbone.control.save_pretrained(folder / "controlnet")
            from diffusers import StableDiffusionInpaintPipeline
            from peft.utils import get_peft_model_state_dict

            StableDiffusionInpaintPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(self.backbone.unet))
            (folder / BASE).write_text(json.dumps({"weights": weights_hash(locate(self.config.backbone.weights))}) + "\n")
        else:
            self.backbone.save(folder)
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        config: Any = from_dict(cls.config_class, read_json(folder / "config.json")["config"], str(folder / "config.json"))
        channels, control = 9 if cls.condition == CHANNELS else 4, cls.condition == CONTROL
        if config.backbone.lora_rank:
            from peft.utils import set_peft_model_state_dict
            from safetensors.torch import load_file

            base = locate(config.backbone.weights)
            if (folder / BASE).is_file() and read_json(folder / BASE)["weights"] != weights_hash(base):
                raise UserError(f"{folder} adapts other weights than those of {config.backbone.weights} as they are now: restore them.")
            if control:
                config = replace(config, backbone=replace(config.backbone, control_weights=str(folder / "controlnet")))
            model = cls(config)
            stored = load_file(folder / "pytorch_lora_weights.safetensors")
            set_peft_model_state_dict(model.backbone.unet, {k.removeprefix("unet."): v for k, v in stored.items()})
            return model
        frozen = BackboneConfig(weights=config.backbone.weights)  # which a ControlNet stands beside
        backbone = load_backbone(folder, channels, control, frozen)
        return cls(config, backbone)


def enlarged_box(lesion: Mask, margin_px: float, shape: tuple[int, int]) -> Mask:
    """The bounding box of a lesion, `margin_px` wider on each side and clipped to the frame; nothing for no lesion."""
    if not lesion.any():
        return np.zeros(shape, bool)
    return box_mask(enlarge(bounding_box(lesion), round(margin_px), shape), shape)


def is_normal(job: Job) -> bool:
    return job.request.label == NORMAL
