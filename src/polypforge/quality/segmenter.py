"""The judge of labels: a small segmenter that sees a window of the *final* image and says where the lesion is.

It works on windows, not whole frames, so that a small lesion in a large frame is judged at the scale at which it was drawn. Its
windows are placed loosely and many hold no lesion at all, so it can't pass a case by guessing the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.models.pixels import to_unit
from polypforge.models.trainable import Batch
from polypforge.quality.judges import Judge, overlap_losses


@dataclass(frozen=True)
class SegmenterConfig:
    """encoder: any of segmentation-models-pytorch, trained from scratch. depth, decoder: its stages and decoder widths.
    window_px: side of the windows it sees. window_scale: range of window side / lesion side in training.
    empty_share: share of training windows placed without regard to lesions."""

    encoder: str = "tu-resnet10t"
    depth: int = 4
    decoder: tuple[int, ...] = (128, 64, 32, 16)
    window_px: int = 96
    window_scale: tuple[float, float] = (1.35, 3.6)
    empty_share: float = 0.3

    def __post_init__(self) -> None:
        if len(self.decoder) != self.depth or self.window_px % 2**self.depth:
            raise ValueError("decoder needs `depth` widths and window_px must be a multiple of 2 ** depth")


class WindowSegmenter(Judge):
    """U-Net on RGB windows in [-1, 1]; one logit a pixel."""

    name: ClassVar[str] = "window_segmenter"
    config_class = SegmenterConfig

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.net = smp.Unet(config.encoder, config.depth, encoder_weights=None, decoder_channels=config.decoder, classes=1)

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
        image = to_unit(windows).to(next(self.parameters()).device).contiguous(memory_format=torch.channels_last)
        chance = torch.sigmoid(self.net(image).float()) + torch.sigmoid(self.net(image.flip(-1)).float()).flip(-1)
        return (chance[:, 0] / 2).cpu().numpy()

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.net.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        self.save_config(folder)

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        config = read_json(folder / "config.json")
        if not isinstance(config, dict) or config.get("model") != cls.name:
            raise UserError(f"{folder / 'config.json'} is no {cls.name} that `polypforge train` saved.")
        model = cls(from_dict(SegmenterConfig, config["config"], str(folder / "config.json")))
        try:
            state = load_file(folder / "model.safetensors")
            model.net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder} is incomplete or damaged ({str(error).splitlines()[0]}): restore it or train again.") from error
        return model.to(memory_format=torch.channels_last)
