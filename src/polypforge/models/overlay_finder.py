"""Finds letters that are burnt into frames. It learns from rendered text alone, so its labels are exact and of no patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor

from polypforge.core.images import shrunk_size
from polypforge.core.types import Case, Image, Mask
from polypforge.data.overlays import overlay_text
from polypforge.models.pixels import to_unit
from polypforge.models.precision import fast_inference
from polypforge.models.saved_net import SavedNet
from polypforge.models.trainable import Batch, Trainable
from polypforge.phantom.overlays import draw_overlay


@dataclass(frozen=True)
class OverlayFinderConfig:
    """encoder: any of segmentation-models-pytorch, from scratch; depth, decoder: its stages and decoder widths. look_px: longer side at
    which frames are searched. crop_px: side of training crops. threshold: of the probability that starts a letter; faint: of pixels that
    join it (hysteresis, Canny 1986); grow: pixels at that scale by which what is found grows. empty_share: share of
    training crops without text."""

    encoder: str = "tu-mobilenetv3_small_050"
    depth: int = 4
    decoder: tuple[int, ...] = (48, 32, 24, 16)
    look_px: int = 640
    crop_px: int = 160
    threshold: float = 0.4
    faint: float = 0.1
    grow: int = 3
    empty_share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.faint <= self.threshold < 1:
            raise ValueError("0 < faint <= threshold < 1")
        if len(self.decoder) != self.depth or self.crop_px % 2**self.depth:
            raise ValueError("decoder needs `depth` widths and crop_px must be a multiple of 2 ** depth")


class OverlayFinder(SavedNet, Trainable):
    """U-Net on RGB in [-1, 1]; one logit a pixel."""

    name: ClassVar[str] = "overlay_finder"
    about_lesions: ClassVar[bool] = False
    config_class = OverlayFinderConfig

    def __init__(self, config: OverlayFinderConfig) -> None:
        super().__init__()
        self.config = config
        self.net = smp.Unet(config.encoder, config.depth, encoder_weights=None, decoder_channels=config.decoder, classes=1)

    def prepare(self, cases: Sequence[Case]) -> list[Image]:
        """Frames at the scale of the search; those that may show text of their own are no ground to learn on."""
        return [_scaled(c.image, self.config.look_px) for c in cases if not overlay_text(c.image).any()]

    def training_batch(self, pool: Sequence[Image], batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) in [-1, 1]; text (B, 1, S, S) in {0, 1}. float32."""
        drawn = [self._example(pool[rng.integers(len(pool))], rng) for _ in range(batch_size)]
        images, marks = (np.stack(x) for x in zip(*drawn, strict=True))
        return {"image": to_unit(images), "text": torch.from_numpy(marks).float()[:, None]}

    def _example(self, frame: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
        size = self.config.crop_px
        if rng.random() < 0.5:
            frame = np.ascontiguousarray(frame[:, ::-1])
        if rng.random() < self.config.empty_share:
            image, marks = frame, np.zeros(frame.shape[:2], bool)
        else:
            image, marks = draw_overlay(frame, rng)
        if rng.random() < 0.7:  # what was saved with loss has grey fringes around its letters
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 97))]
            image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
        elif rng.random() < 0.3:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.0))
        pad = [(0, max(0, size - image.shape[0])), (0, max(0, size - image.shape[1]))]
        image, marks = np.pad(image, [*pad, (0, 0)]), np.pad(marks, pad)
        if marks.any() and rng.random() < 0.85:  # near a letter
            rows, columns = np.nonzero(marks)
            k = rng.integers(len(rows))
            y, x = rows[k] - rng.integers(size), columns[k] - rng.integers(size)
        else:
            y, x = rng.integers(image.shape[0] - size + 1), rng.integers(image.shape[1] - size + 1)
        y, x = int(np.clip(y, 0, image.shape[0] - size)), int(np.clip(x, 0, image.shape[1] - size))
        return np.ascontiguousarray(image[y : y + size, x : x + size]), marks[y : y + size, x : x + size]

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        size = self.config.crop_px
        return {"image": (count, 3, size, size), "text": (count, 1, size, size)}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Binary cross-entropy plus soft Dice; a missed letter costs four times a false one."""
        logits, text = self.net(batch["image"]).float(), batch["text"]
        entropy = F.binary_cross_entropy_with_logits(logits, text, pos_weight=logits.new_tensor(4.0))
        chance = torch.sigmoid(logits)
        dice = 1 - (2 * (chance * text).sum() + 1) / (chance.sum() + text.sum() + 1)
        return entropy + dice, {"entropy": entropy.detach(), "dice": dice.detach()}

    @torch.no_grad()
    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        found = torch.sigmoid(self.net(batch["image"]).float()) > self.config.threshold
        truth = batch["text"] > 0.5
        missed = 1 - float(found[truth].float().mean()) if truth.any() else 0.0
        return {"missed": missed, "false": float(found[~truth].float().mean())}

    @torch.inference_mode()
    def find(self, image: Image) -> Mask:
        """(H, W) bool: letters, with a margin."""
        self.eval()
        config = self.config
        small = _scaled(image, config.look_px)
        height, width = small.shape[:2]
        factor = 2**config.depth  # sides that the network takes are multiples of it
        padded = np.pad(small, [(0, -height % factor), (0, -width % factor), (0, 0)])
        device = next(self.parameters()).device
        with fast_inference(device):
            logits = self.net(to_unit(padded[None]).to(device).contiguous(memory_format=torch.channels_last)).float()
        chance = torch.sigmoid(logits)[0, 0, :height, :width].cpu().numpy()
        # A letter has a sure pixel, and more than a few; what is left grows, so that fringes go with their letters.
        count, labels, stats, _ = cv2.connectedComponentsWithStats((chance > config.faint).astype(np.uint8), connectivity=8)
        letter = np.zeros(count, bool)
        letter[np.unique(labels[chance > config.threshold])] = True
        letter[0] = False
        keep = (letter & (stats[:, cv2.CC_STAT_AREA] >= 4))[labels].astype(np.uint8)
        grown = cv2.dilate(keep, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * config.grow + 1,) * 2))
        return cv2.resize(grown, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0


def _scaled(image: Image, longest_px: int) -> Image:
    return cv2.resize(image, shrunk_size(image.shape, longest_px)[1], interpolation=cv2.INTER_AREA)
