"""Finds lesions as boxes with a confidence: the judge of data that is labelled with boxes alone.

A lesion is the peak of a heat map, with its width and height beside it (CenterNet: Zhou et al. 2019, arXiv 1904.07850).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import Tensor

from polypforge.core.types import Box, Image, Mask
from polypforge.core.window import Window
from polypforge.data.prepared import Prepared, draw_case, prepare
from polypforge.data.recolour import recolour
from polypforge.masks.shapes import box_mask, component_boxes
from polypforge.models.centernet import START, centre_loss, centre_peaks, centre_targets
from polypforge.models.encoder_weights import known_encoder
from polypforge.models.pixels import to_unit
from polypforge.models.saved_net import SavedNet
from polypforge.models.trainable import Batch, Trainable
from polypforge.quality.judges import training_window

Sighting = tuple[Box, float]  # box in frame pixels, confidence in 0..1
LEAST_PX = 6  # sides of a box in a training window below which it is not taught


@dataclass(frozen=True)
class DetectorConfig:
    """encoder: any of segmentation-models-pytorch, trained from scratch. depth, decoder: its stages and decoder widths; the heat map
    has the window's size. window_px, window_scale, empty_share: as for the window segmenter. size_weight: of the boxes' sides beside
    the heat map. most: boxes kept in a window."""

    encoder: str = "tu-resnet10t"
    depth: int = 4
    decoder: tuple[int, ...] = (96, 48, 24, 16)
    window_px: int = 96
    window_scale: tuple[float, float] = (1.35, 3.6)
    empty_share: float = 0.3
    size_weight: float = 2.0
    most: int = 8

    def __post_init__(self) -> None:
        if len(self.decoder) != self.depth or self.window_px % 2**self.depth:
            raise ValueError("decoder needs `depth` widths and window_px must be a multiple of 2 ** depth")


class Detector(SavedNet, Trainable):
    """U-Net on RGB windows in [-1, 1] with three outputs a pixel: heat (logit), width and height (shares of the window)."""

    name: ClassVar[str] = "window_detector"
    config_class = DetectorConfig

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        with known_encoder(config.encoder):
            self.net = smp.Unet(config.encoder, config.depth, encoder_weights=None, decoder_channels=config.decoder, classes=3)
        with torch.no_grad():
            head: Any = self.net.segmentation_head[0]  # type: ignore[index]
            head.bias.copy_(torch.tensor(START))

    def prepare(self, cases) -> list[Prepared]:
        return [prepare(case) for case in cases]

    def training_batch(self, pool: Sequence[Prepared], batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) in [-1, 1]; heat (B, 1, S, S) in 0..1, 1 at the centres; sides (B, 2, S, S), shares of the window, known
        at the centres; centre (B, 1, S, S) in {0, 1}. float32."""
        size = self.config.window_px
        images, heats, sides, centres = [], [], [], []
        for _ in range(batch_size):
            chosen = draw_case(pool, rng)
            window = training_window(chosen, self.config, rng)
            if chosen.case.mask is None:  # a box that is turned is no box
                window = Window(window.x, window.y, window.side_px, round(window.angle_deg / 90) * 90.0, window.flip)
            images.append(recolour(window.crop(chosen.case.image, size), rng))
            heat, side, centre = centre_targets(_boxes_in(chosen, window, size), size)
            heats.append(heat)
            sides.append(side)
            centres.append(centre)
        parts = {"heat": np.stack(heats)[:, None], "sides": np.stack(sides), "centre": np.stack(centres)[:, None]}
        return {"image": to_unit(np.stack(images)), **{k: torch.from_numpy(v) for k, v in parts.items()}}

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        size = (self.config.window_px, self.config.window_px)
        return {"image": (count, 3, *size), "heat": (count, 1, *size), "sides": (count, 2, *size), "centre": (count, 1, *size)}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Penalty-reduced focal loss on the heat map (alpha 2, beta 4), L1 on the sides at the centres."""
        focal, sides = centre_loss(self.net(batch["image"]).float(), batch["heat"], batch["sides"], batch["centre"])
        return focal + self.config.size_weight * sides, {"focal": focal.detach(), "sides": sides.detach()}

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        _, parts = self.loss(batch, torch.Generator().manual_seed(seed))
        return {name: float(value) for name, value in parts.items()}

    @torch.inference_mode()
    def detect(self, windows: NDArray[np.uint8]) -> list[list[tuple[tuple[float, float, float, float], float]]]:
        """(N, S, S, 3) uint8 -> for each window boxes (x0, y0, x1, y1) in its pixels with confidence, surest first."""
        self.eval()
        found = self.net(to_unit(windows).to(next(self.parameters()).device)).float()
        return centre_peaks(found, self.config.most)

    def detect_in(self, images: Sequence[Image], windows: Sequence[Window]) -> list[list[Sighting]]:
        """Boxes in frame pixels, for one upright window of each image."""
        if not images:
            return []
        size = self.config.window_px
        found = self.detect(np.stack([w.crop(i, size) for i, w in zip(images, windows, strict=True)]))
        return [[(_in_frame(box, w, size), sure) for box, sure in boxes] for boxes, w in zip(found, windows, strict=True)]


def load_detector(folder: Path) -> Detector:
    """The detector that was saved in `folder`. Raises UserError for anything else."""
    return Detector.load_pretrained(folder).eval()


def _boxes_in(chosen: Prepared, window: Window, size: int) -> list[Box]:
    """Boxes of the lesions as the window shows them."""
    parts: list[Mask] = [chosen.case.mask] if chosen.case.mask is not None else [box_mask(b, chosen.case.size) for b in chosen.boxes]
    boxes = [b for m in parts for b in component_boxes(window.crop_mask(m, size), LEAST_PX)]
    return [b for b in boxes if min(b[2] - b[0], b[3] - b[1]) >= LEAST_PX]


def _in_frame(box: tuple[float, float, float, float], window: Window, size: int) -> Box:
    scale = window.side_px / size
    left, top = window.x + 0.5 - window.side_px / 2, window.y + 0.5 - window.side_px / 2
    x0, y0, x1, y1 = box
    return round(left + x0 * scale), round(top + y0 * scale), round(left + x1 * scale), round(top + y1 * scale)
