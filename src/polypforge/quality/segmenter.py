"""The judge of labels: a small segmenter that sees a window of the *final* image and says where the lesion is.

It works on windows, not whole frames, so that a small lesion in a large frame is judged at the scale at which it was drawn. Its
windows are placed loosely and many hold no lesion at all, so it can't pass a case by guessing the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from polypforge.models.encoder_weights import known_encoder
from polypforge.models.pixels import to_unit
from polypforge.models.precision import fast_inference
from polypforge.models.saved_net import SavedNet
from polypforge.models.trainable import Batch
from polypforge.quality.judges import Judge, overlap_losses


@dataclass(frozen=True)
class SegmenterConfig:
    """architecture, encoder: any of segmentation-models-pytorch, trained from scratch. depth: stages of the encoder. decoder: widths, of a
    unet alone.
    window_px: side of the windows it sees. window_scale: range of window side / lesion side in training.
    empty_share: share of training windows placed without regard to lesions."""

    architecture: str = "unet"
    encoder: str = "tu-resnet10t"
    depth: int = 4
    decoder: tuple[int, ...] = (128, 64, 32, 16)
    window_px: int = 96
    window_scale: tuple[float, float] = (1.35, 3.6)
    empty_share: float = 0.3

    def __post_init__(self) -> None:
        if self.architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
            raise ValueError(f"architecture is one of {', '.join(smp.MODEL_ARCHITECTURES_MAPPING)}")
        if (self.architecture == "unet" and len(self.decoder) != self.depth) or self.window_px % 2**self.depth:
            raise ValueError("decoder needs `depth` widths and window_px must be a multiple of 2 ** depth")


class WindowSegmenter(SavedNet, Judge):
    """A network on RGB windows in [-1, 1]; one logit a pixel."""

    name: ClassVar[str] = "window_segmenter"
    config_class = SegmenterConfig

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        widths = {"decoder_channels": config.decoder} if config.architecture == "unet" else {}
        with known_encoder(config.encoder):
            self.net = smp.create_model(config.architecture, config.encoder, None, classes=1, encoder_depth=config.depth, **widths)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Binary cross-entropy plus soft Dice over the batch, both inside the field of view."""
        logits = self.net(batch["image"]).float()
        field, mask = batch["field"], batch["mask"]
        entropy = (F.binary_cross_entropy_with_logits(logits, mask, reduction="none") * field).sum() / field.sum().clamp_min(1)
        chance = torch.sigmoid(logits) * field
        dice = 1 - (2 * (chance * mask).sum() + 1) / (chance.sum() + (mask * field).sum() + 1)
        return entropy + dice, {"entropy": entropy.detach(), "dice": dice.detach()}

    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        found = torch.sigmoid(self.net(batch["image"]).float()) > 0.5
        truth = batch["mask"] > 0.5
        return overlap_losses(found, truth)

    @torch.inference_mode()
    def predict(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 -> (N, S, S) float32 lesion probability: the mean over the window and its mirror image."""
        self.eval()
        device = next(self.parameters()).device
        image = to_unit(windows).to(device).contiguous(memory_format=torch.channels_last)
        with fast_inference(device):
            chance = torch.sigmoid(self.net(image).float()) + torch.sigmoid(self.net(image.flip(-1)).float()).flip(-1)
        return (chance[:, 0] / 2).cpu().numpy()
