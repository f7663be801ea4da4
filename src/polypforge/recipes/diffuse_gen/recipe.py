"""`diffuse_gen`: image and mask repainted together by RePaint, one network for each cluster (diffuse-gen, arXiv 2310.16794)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import cv2
import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Case, Mask
from polypforge.data.prepared import Prepared, random_window
from polypforge.diffusion.gaussian import GaussianDiffusion
from polypforge.diffusion.loss_guidance import LossGuided
from polypforge.diffusion.noise import SampleNoise
from polypforge.diffusion.repaint import keep_known, repaint_sigmas
from polypforge.diffusion.samplers import ancestral
from polypforge.features import Encoder, load_encoder
from polypforge.features.denoiser import DenoiserEncoder, slightly_noised
from polypforge.masks.shapes import dilate
from polypforge.models.pixels import to_planes, to_unit
from polypforge.models.precision import fast_inference
from polypforge.models.unet import apply_discrete_unet, build_unet
from polypforge.recipes.base import Batch, Job, Recipe
from polypforge.recipes.colour_transfer import colour_transfer
from polypforge.recipes.diffuse_gen.clusters import cluster_centres, features, nearest_centre
from polypforge.recipes.diffuse_gen.config import DiffuseGenConfig
from polypforge.recipes.diffuse_gen.styling import StylingLoss, unet_features
from polypforge.recipes.mask_to_frame import with_lesions
from polypforge.recipes.windows import View, asked_lesion, channels_last, finished, remaining, square_around, square_window

PAPER_PX = 256
STATE = 4


@dataclass
class Member(Prepared):
    """A prepared case with its cluster."""

    cluster: int = 0


class DiffuseGen(Recipe):
    name: ClassVar[str] = "diffuse_gen"
    config_class: ClassVar[type] = DiffuseGenConfig
    needs: ClassVar[frozenset[str]] = frozenset({"background", "mask"})

    def __init__(self, config: DiffuseGenConfig, unets: Sequence[UNet2DModel] | None = None, centres: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.diffusion = GaussianDiffusion(config.diffusion)
        outputs = STATE * config.diffusion.outputs
        self.unets = nn.ModuleList(unets or [build_unet(config.unet, STATE, outputs, conditional=False) for _ in range(config.networks)])
        self.centres = centres
        self.uses_all_parameters = config.networks == 1
        self._encoders: dict[str, Encoder] = {}

    # Clusters

    def fit(self, cases: Sequence[Case]) -> None:
        if self.config.styling.enabled:
            self._judges()  # missing ones are said now, not after the training
        if self.config.models == "per_cluster":
            usable = with_lesions(cases)
            if not usable:
                raise UserError(f"{self.name} learns from masks: no case of the data has one that shows a lesion.")
            rows = features(self._encoder(self.config.features), usable)
            config = self.config
            self.centres = torch.from_numpy(cluster_centres(rows, config.clusters, config.smallest_cluster, config.cluster_seed))

    def _encoder(self, name: str) -> Encoder:
        if name not in self._encoders:
            self._encoders[name] = load_encoder(name)
        return self._encoders[name].to(next(self.parameters()).device)

    def prepare(self, cases: Sequence[Case]) -> list[Member]:
        usable = with_lesions(cases)
        assigned = np.zeros(len(usable), np.int64)
        if self.centres is not None and usable:
            assigned = nearest_centre(features(self._encoder(self.config.features), usable), self.centres.numpy())
        return [Member(p.case, p.field, p.boxes, p.field_area_px, int(k)) for p, k in zip(usable, assigned, strict=True)]

    # Training

    def training_batch(self, pool: Sequence[Member], batch_size: int, rng: np.random.Generator) -> Batch:
        """state (B, 4, S, S) in [-1, 1]: image and mask; cluster (B,): whose network learns from it."""
        members = [pool[rng.integers(len(pool))] for _ in range(batch_size)]
        images, masks = zip(*(self._look(m, rng) for m in members), strict=True)
        state = torch.cat([to_unit(np.stack(images)), to_planes(masks) * 2 - 1], 1)
        return {"state": state, "cluster": torch.tensor([m.cluster if self.config.networks > 1 else 0 for m in members])}

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        return {"state": (count, STATE, self.config.size_px, self.config.size_px), "cluster": (count,)}

    def _look(self, member: Member, rng: np.random.Generator):
        config = self.config
        if config.view == "frame" or not member.boxes:  # specks have none
            return member.look(square_window(member, rng, vary=True), config.size_px)[:2]
        x0, y0, x1, y1 = member.boxes[rng.integers(len(member.boxes))]
        side = max(config.min_window_px, max(x1 - x0, y1 - y0) * float(np.exp(rng.uniform(np.log(1.4), np.log(2.8)))))
        return member.look(random_window((x0 + x1) / 2, (y0 + y1) / 2, side, 0.1, rng), config.size_px)[:2]

    def _network(self, cluster: int):
        unet = self.unets[cluster]
        return lambda state, times, cond: apply_discrete_unet(unet, state, times, self.config.unet.patch_px)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        total, bound = torch.zeros((), device=batch["state"].device), torch.zeros((), device=batch["state"].device)
        for cluster, state in self._by_cluster(batch):
            errors = self.diffusion.errors(self._network(cluster), state, None, generator)
            share = len(state) / len(batch["state"])
            total, bound = total + share * errors.mean(), bound + share * errors.bound.mean().detach()
        return total, {"loss": total.detach(), "bound": bound}

    def _by_cluster(self, batch: Batch) -> list[tuple[int, Tensor]]:
        if self.config.networks == 1 or batch["cluster"].is_meta:
            return [(0, batch["state"])]
        return [(int(k), batch["state"][batch["cluster"] == k]) for k in batch["cluster"].unique()]

    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for cluster, state in self._by_cluster(batch):
            for name, value in self.diffusion.validation(self._network(cluster), state, None, seed).items():
                found[name] = found.get(name, 0.0) + value * len(state) / len(batch["state"])
        return found

    # Generation

    def model_of(self, job: Job) -> int:
        """j ~ U{1..K}: the network need not be that of the background's own cluster."""
        return int(numpy_rng(job.request.seed, "cluster").integers(self.config.networks))

    def view_of(self, job: Job) -> View:
        """The whole square frame where the region fits in it, or the window around the region."""
        view = View.of(job, self.config.window_scale, self.config.min_window_px)
        square = square_around(view.region) if self.config.view == "frame" else None
        view = replace(view, window=square or view.window)
        if not job.request.lesion:
            return view
        lesion = asked_lesion(job, view)
        return replace(view, region=dilate(lesion, self.config.dilate_px * view.window.side_px / PAPER_PX) & view.region)

    @torch.no_grad()
    def generate(self, jobs: Sequence[Job]) -> list[Case]:
        groups: dict[int, list[int]] = defaultdict(list)
        for i, job in enumerate(jobs):
            groups[self.model_of(job)].append(i)
        found: dict[int, Case] = {}
        for cluster, members in groups.items():
            found |= dict(zip(members, self._generate([jobs[i] for i in members], cluster), strict=True))
        return [found[i] for i in range(len(jobs))]

    def _generate(self, jobs: Sequence[Job], cluster: int) -> list[Case]:
        config, device = self.config, next(self.parameters()).device
        views = [self.view_of(job) for job in jobs]
        image, region, _ = (torch.stack(p).to(device) for p in zip(*(v.planes(config.size_px) for v in views), strict=True))
        left = [remaining(j.background.mask, v.region, v.field) for j, v in zip(jobs, views, strict=True)]
        old = torch.stack([v.plane(m, config.size_px) for v, m in zip(views, left, strict=True)]).to(device)
        known = torch.cat([image, old * 2 - 1], 1)
        noise = SampleNoise([j.request.seed for j in jobs])
        levels = self.diffusion.spaced(config.steps).to(device)
        x = noise.start((STATE, config.size_px, config.size_px), levels[0])
        denoise = self.diffusion.denoiser(self._network(cluster), clip=True)
        with fast_inference(device):
            path = repaint_sigmas(levels, config.jump_length, config.resamples)
            drawn = ancestral(denoise, x, path, None, noise, keep_known(known, region, noise)).float()
            if config.styling.enabled:
                drawn = self._styled(drawn, image, region, cluster, levels, noise)
        return [self._finish(j, v, d) for j, v, d in zip(jobs, views, channels_last(drawn), strict=True)]

    def _styled(self, drawn: Tensor, real: Tensor, region: Tensor, cluster: int, levels: Tensor, noise: SampleNoise) -> Tensor:
        """The image with the real source's look, surroundings kept; the mask as it was."""
        config = self.config.styling
        path = levels[len(levels) - 2 - config.start :]
        denoise = self.diffusion.denoiser(self._network(cluster))  # not clipped, or the loss on its range would see none
        loss = StylingLoss(config, drawn[:, :3], real, lambda s: self._maps(s, cluster), *self._judges())
        x = drawn + path[0] * noise(drawn)
        styled = ancestral(LossGuided(denoise, loss, clip=True), x, path, None, noise, keep_known(drawn, region, noise))
        return torch.cat([styled[:, :3], drawn[:, 3:]], 1).float()

    def _judges(self) -> tuple[Encoder | None, Encoder | None]:
        config = self.config.styling
        perceptual = self._encoder(config.perceptual) if config.vgg else None
        return perceptual, self._encoder(config.semantics) if config.style or config.semantic else None

    def _maps(self, state: Tensor, cluster: int) -> list[Tensor]:
        """U-Net features of a clean state, at time 0 as in the authors' program."""
        unet = self.unets[cluster]
        tokens = torch.nn.functional.pixel_unshuffle(state, self.config.unet.patch_px)
        return unet_features(unet, tokens, torch.zeros(len(state), dtype=torch.long, device=state.device))  # type: ignore[arg-type]

    def _finish(self, job: Job, view: View, drawn: np.ndarray) -> Case:
        pixels = drawn[..., :3]
        if self.config.styling.enabled and self.config.styling.colour_transfer:
            rgb = np.rint(np.clip(pixels * 127.5 + 127.5, 0, 255)).astype(np.uint8)
            pixels = colour_transfer(rgb, view.window.crop(view.frame, len(rgb))).astype(np.float32) / 127.5 - 1
        plane = self._opened(drawn[..., 3] > 0).astype(np.float32) * 2 - 1
        return finished(job, view.region, view.field, view.paste(view.enlarged(pixels)), view.lesion_in(plane))

    def _opened(self, mask: Mask) -> Mask:
        radius = round(self.config.opening_px * self.config.size_px / PAPER_PX)
        if radius < 1:
            return mask
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc).astype(bool)

    def encoder(self) -> Encoder:
        """Of the first network, told that there is no lesion."""

        def run(image: Tensor) -> Tensor:
            state, times = slightly_noised(self.diffusion, torch.cat([image, -torch.ones_like(image[:, :1])], 1))
            return self._network(0)(state, times, None)

        first: Any = self.unets[0]
        return DenoiserEncoder(first, first.up_blocks[0], run, self.config.size_px)

    # Files

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for k, unet in enumerate(self.unets):
            unet.save_pretrained(folder / f"unet_{k:02d}")  # type: ignore[operator]
        if self.centres is not None:
            save_file({"centres": self.centres.contiguous()}, folder / "clusters.safetensors")
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        config = from_dict(DiffuseGenConfig, read_json(folder / "config.json")["config"], str(folder / "config.json"))
        places = [folder / f"unet_{k:02d}" for k in range(config.networks)]
        unets = [UNet2DModel.from_pretrained(p, local_files_only=True, use_safetensors=True) for p in places]
        centres = load_file(folder / "clusters.safetensors")["centres"] if config.models == "per_cluster" else None
        return cls(config, unets, centres)
