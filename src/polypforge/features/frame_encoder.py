"""The project's own encoder: small and dense, trained by self-supervision on frames without labels.

Two windows of one frame, differently placed, turned and coloured, show the same tissue: features of the same place must find each other
among those of all other places of the batch (dense contrastive learning, Pinheiro et al. 2020 "VADeR"; loss of van den Oord et al. 2018),
and so must the mean features of the two windows among those of the other frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polypforge.core.config import from_dict
from polypforge.core.files import read_json
from polypforge.core.types import Case
from polypforge.core.window import Window
from polypforge.data.prepared import Prepared, prepare, random_window
from polypforge.data.recolour import recolour
from polypforge.features.base import Encoder, unit_grid
from polypforge.models.pixels import to_unit
from polypforge.models.trainable import Batch, Trainable

STRIDE = 8
TRIALS = 20


@dataclass(frozen=True)
class FrameEncoderConfig:
    """network: a timm model with stages of stride 8 and 16. dim: length of a feature. window_px: side of training windows. look_px: side at
    which whole frames are looked at. points: places compared in each pair of windows. temperature: of both losses. global_weight: of the
    loss on mean features."""

    network: str = "resnet10t"
    dim: int = 96
    window_px: int = 160
    look_px: int = 256
    points: int = 24
    temperature: float = 0.1
    global_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.window_px % 16 or self.look_px % 16:
            raise ValueError("window_px and look_px must be multiples of 16")
        if self.dim < 1 or self.points < 1 or self.temperature <= 0:
            raise ValueError("dim and points are at least 1, temperature is positive")


class FrameEncoder(Trainable):
    """Stages of stride 8 and 16, fused at stride 8."""

    name: ClassVar[str] = "frame_encoder"
    about_lesions: ClassVar[bool] = False
    config_class: ClassVar[type] = FrameEncoderConfig

    def __init__(self, config: FrameEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = timm.create_model(config.network, pretrained=False, features_only=True, out_indices=(2, 3))
        fine, coarse = self.trunk.feature_info.channels()  # type: ignore[union-attr]
        self.fine, self.coarse = nn.Conv2d(fine, config.dim, 1), nn.Conv2d(coarse, config.dim, 1)

    def features(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, S / 8, S / 8, dim) float32 of unit length."""
        fine, coarse = self.trunk(image.contiguous(memory_format=torch.channels_last))
        wide = F.interpolate(self.coarse(coarse), fine.shape[-2:], mode="bilinear", align_corners=False)
        return unit_grid(self.fine(fine) + wide)

    # Training

    def prepare(self, cases: Sequence[Case]) -> list[Prepared]:
        return [prepare(case) for case in cases]

    def training_batch(self, pool: Sequence[Prepared], batch_size: int, rng: np.random.Generator) -> Batch:
        """first, second (B, 3, S, S) in [-1, 1]; here, there (B, P, 2): the same places in both, x and y in [-1, 1] of the window."""
        rows = [self._pair(pool[rng.integers(len(pool))], rng) for _ in range(batch_size)]
        first, second, here, there = (np.stack(part) for part in zip(*rows, strict=True))
        return {"first": to_unit(first), "second": to_unit(second), "here": torch.from_numpy(here), "there": torch.from_numpy(there)}

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        image, places = (count, 3, self.config.window_px, self.config.window_px), (count, self.config.points, 2)
        return {"first": image, "second": image, "here": places, "there": places}

    def _pair(self, chosen: Prepared, rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        size, (height, width) = self.config.window_px, chosen.field.shape
        for _ in range(TRIALS):
            side = min(height, width) * float(np.exp(rng.uniform(np.log(0.4), 0.0)))
            x, y = rng.uniform(0.25, 0.75) * width, rng.uniform(0.25, 0.75) * height
            first = random_window(x, y, side, 0.0, rng)
            second = random_window(x, y, side * float(np.exp(rng.uniform(-0.4, 0.4))), 0.25, rng)
            here, there = shared_places(first, second, chosen.field, size)
            if len(here) >= self.config.points:
                break
        picks = rng.integers(len(here), size=self.config.points) if len(here) else np.zeros(self.config.points, int)
        if not len(here):  # a frame that is nearly all border: its middle stands for itself
            here = there = np.zeros((1, 2), np.float32)
        images = [recolour(w.crop(chosen.case.image, size), rng) for w in (first, second)]
        return images[0], images[1], here[picks], there[picks]

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        local, whole = self._losses(batch)
        total = local + self.config.global_weight * whole
        return total, {"local": local.detach(), "global": whole.detach()}

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        maps = self.features(torch.cat([batch["first"], batch["second"]])).permute(0, 3, 1, 2)
        a, b = maps.chunk(2)
        local = matching_loss(_at(a, batch["here"]), _at(b, batch["there"]), self.config.temperature)
        return local, matching_loss(a.mean((-2, -1)), b.mean((-2, -1)), self.config.temperature)

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        local, whole = self._losses(batch)
        return {"local": float(local), "global": float(whole)}

    # Files

    def save_pretrained(self, folder: Path) -> None:
        """Weights in half precision, which changes features by less than a thousandth."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, folder / "model.safetensors")
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        model = cls(from_dict(FrameEncoderConfig, read_json(folder / "config.json")["config"], str(folder / "config.json")))
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / "model.safetensors").items()})
        return model


class DenseEncoder(Encoder):
    """A trained `FrameEncoder` as an encoder."""

    patch_px = STRIDE

    def __init__(self, model: FrameEncoder) -> None:
        super().__init__()
        self.model, self.look_px = model, model.config.look_px

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.patches(image).permute(0, 3, 1, 2)]

    def patches(self, image: Tensor) -> Tensor:
        return self.model.features(image)


def shared_places(first: Window, second: Window, field: NDArray[np.bool_], size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres of stride-8 cells of the first window that both windows show within the field: (n, 2) x, y in [-1, 1] of each window."""
    centres = (np.arange(size // STRIDE) + 0.5) * STRIDE - 0.5
    grid = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
    one, two = (np.vstack([w.matrix(size), [0, 0, 1]]) for w in (first, second))
    points = np.hstack([grid, np.ones((len(grid), 1))])
    frame = points @ np.linalg.inv(one).T
    other = (frame @ two.T)[:, :2]
    x, y = np.rint(frame[:, 0]).astype(int), np.rint(frame[:, 1]).astype(int)
    kept = (x >= 0) & (y >= 0) & (x < field.shape[1]) & (y < field.shape[0])
    kept &= (other >= STRIDE / 2).all(1) & (other <= size - 1 - STRIDE / 2).all(1)
    kept[kept] = field[y[kept], x[kept]]
    return tuple(((2 * p[kept] + 1) / size - 1).astype(np.float32) for p in (grid, other))  # type: ignore[return-value]


def matching_loss(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Rows of a (N, D) must find their own row of b (N, D), and the other way round, by cosine similarity; ln N when they can't."""
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    own = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _at(maps: Tensor, places: Tensor) -> Tensor:
    """Features (B * P, D) of maps (B, D, h, w) at places (B, P, 2) in [-1, 1], between cells by interpolation."""
    found = F.grid_sample(maps, places[:, :, None], mode="bilinear", padding_mode="border", align_corners=False)
    return found[..., 0].transpose(1, 2).flatten(0, 1)
