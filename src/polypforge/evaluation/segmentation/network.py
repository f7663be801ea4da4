"""Segmenters that learn from whole frames: what the synthetic cases are made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.core.types import NORMAL, Case, Image, Mask
from polypforge.evaluation.augment import augmented
from polypforge.evaluation.mixture import Mixture
from polypforge.models.encoder_weights import named_weights
from polypforge.models.locate import is_local, locate
from polypforge.models.pixels import to_unit
from polypforge.models.precision import fast_inference
from polypforge.models.saved_net import SavedNet
from polypforge.models.trainable import Batch, Trainable

LOSSES = ("dice", "bce_dice")
PREDICTED_AT_ONCE = 16


@dataclass(frozen=True)
class LesionSegmenterConfig:
    """architecture, encoder: any of segmentation-models-pytorch. weights: of the encoder (a safetensors file, or a name that timm or
    torchvision knows: they download it), of the whole network (a run of `train lesion_segmenter`, or starter:lesion_segmenter), or "" for
    none. depth: its stages. decoder: widths, of unet and unetplusplus. size_px: side of the frames that it sees (resized, not cut).
    loss: dice (as the papers), or bce_dice."""

    architecture: str = "unet"
    encoder: str = "resnet34"
    weights: str = ""
    depth: int = 5
    decoder: tuple[int, ...] = (256, 128, 64, 32, 16)
    size_px: int = 256
    loss: str = "dice"

    def __post_init__(self) -> None:
        if self.architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
            raise ValueError(f"architecture is one of {', '.join(smp.MODEL_ARCHITECTURES_MAPPING)}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss is one of {', '.join(LOSSES)}")
        if self._has_widths and len(self.decoder) != self.depth:
            raise ValueError("decoder needs `depth` widths")
        if self.size_px % 2**self.depth:
            raise ValueError("size_px must be a multiple of 2 ** depth")

    @property
    def _has_widths(self) -> bool:
        return self.architecture in ("unet", "unetplusplus")


@dataclass(frozen=True)
class Frame:
    """A case at the size that the network sees. image: (S, S, 3) uint8; mask: (S, S) bool."""

    name: str
    image: Image
    mask: Mask


class LesionSegmenter(SavedNet, Trainable):
    """One logit a pixel from RGB frames in [-1, 1]."""

    name: ClassVar[str] = "lesion_segmenter"
    config_class = LesionSegmenterConfig

    def __init__(self, config: LesionSegmenterConfig) -> None:
        super().__init__()
        self.config = replace(config, weights="")  # what is saved starts from nothing else
        widths = {"decoder_channels": config.decoder} if config._has_widths else {}
        file = Path(config.weights) if config.weights.endswith(".safetensors") else None
        named = named_weights(config.encoder, config.weights) if file is None and not is_local(config.weights) else None
        try:
            self.net = smp.create_model(config.architecture, config.encoder, named, classes=1, encoder_depth=config.depth, **widths)
            if file is not None:
                encoder: Any = self.net.encoder
                missing = encoder.load_state_dict(load_file(file), strict=False).missing_keys
                if missing:
                    raise UserError(f"{file} holds no weights of encoder {config.encoder}: '{missing[0]}' is missing.")
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            what = str(error).splitlines()[0]
            raise UserError(
                f"segmenter {config.architecture} with encoder {config.encoder} and weights '{config.weights}': {what}."
            ) from error
        if is_local(config.weights) and not next(self.net.parameters()).is_meta:
            self._set_out_from(type(self).load_pretrained(locate(config.weights)))

    def _set_out_from(self, other: LesionSegmenter) -> None:
        try:
            self.net.load_state_dict(other.net.state_dict())
        except RuntimeError as error:
            shape, wanted = (f"{c.architecture}, {c.encoder}, depth {c.depth}, decoder {c.decoder}" for c in (other.config, self.config))
            raise UserError(f"weights are of another network ({shape}) than the one that sets out from them ({wanted}).") from error

    def logits(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1, S, S) float32, whatever size the architecture answers in."""
        found = self.net(image).float()
        same = found.shape[-2:] == image.shape[-2:]
        return found if same else F.interpolate(found, image.shape[-2:], mode="bilinear", align_corners=False)

    def frame(self, case: Case) -> Frame:
        """Raises UserError for a lesion without a mask."""
        if case.mask is None and (case.boxes or case.label != NORMAL):
            raise UserError(f"{case.name} has boxes but no mask: a segmenter learns from masks.")
        size = (self.config.size_px, self.config.size_px)
        truth = case.mask if case.mask is not None else np.zeros(case.size, bool)
        mask = cv2.resize(truth.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) >= 128
        return Frame(case.name, cv2.resize(case.image, size, interpolation=cv2.INTER_AREA), mask)

    def prepare(self, cases: Sequence[Case]) -> Mixture[Frame]:
        """All cases, to be strongly augmented."""
        return Mixture.of_real((self.frame(case) for case in cases), lambda frame: bool(frame.mask.any()), "strong")

    def training_batch(self, pool: Sequence, batch_size: int, rng: np.random.Generator) -> Batch:
        """image (B, 3, S, S) in [-1, 1] and mask (B, 1, S, S) in {0, 1}, drawn from the mixture and augmented as it says."""
        assert isinstance(pool, Mixture)
        drawn = [pool.draw(rng) for _ in range(batch_size)]
        return _batch([augmented(f.image, [f.mask], pool.augment, rng) for f in drawn])

    def validation_batch(self, pool: Sequence, count: int, rng: np.random.Generator) -> Batch:
        """The first `count` real examples as they are."""
        assert isinstance(pool, Mixture)
        return _batch([(f.image, [f.mask]) for f in pool.real[:count]])

    def batch_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        size = (self.config.size_px, self.config.size_px)
        return {"image": (count, 3, *size), "mask": (count, 1, *size)}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Soft Dice over the batch, and binary cross-entropy when the configuration asks for it."""
        logits, mask = self.logits(batch["image"]), batch["mask"]
        chance = torch.sigmoid(logits)
        dice = 1 - (2 * (chance * mask).sum() + 1) / (chance.sum() + mask.sum() + 1)
        if self.config.loss == "dice":
            return dice, {"dice": dice.detach()}
        entropy = F.binary_cross_entropy_with_logits(logits, mask)
        return dice + entropy, {"dice": dice.detach(), "entropy": entropy.detach()}

    def validation_losses(self, batch: Batch, seed: int) -> dict[str, float]:
        """1 - mean Dice of the thresholded predictions."""
        parts = batch["image"].split(PREDICTED_AT_ONCE)
        found = torch.cat([self.logits(part) > 0 for part in parts])
        truth = batch["mask"] > 0.5
        both, sizes = (found & truth).sum((1, 2, 3)), found.sum((1, 2, 3)) + truth.sum((1, 2, 3))
        return {"1 - Dice": float(1 - torch.where(sizes > 0, 2 * both / sizes.clamp_min(1), 1.0).mean())}

    @torch.inference_mode()
    def predict(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        """Frames of any sizes -> lesion probability of each pixel, at the frame's own size."""
        self.eval()
        device, size, found = next(self.parameters()).device, self.config.size_px, []
        for start in range(0, len(images), PREDICTED_AT_ONCE):
            part = images[start : start + PREDICTED_AT_ONCE]
            small = np.stack([cv2.resize(i, (size, size), interpolation=cv2.INTER_AREA) for i in part])
            with fast_inference(device):
                chance = torch.sigmoid(self.logits(to_unit(small).to(device).contiguous(memory_format=torch.channels_last)))
            maps = chance[:, 0].cpu().numpy()
            found += [cv2.resize(m, i.shape[1::-1], interpolation=cv2.INTER_LINEAR) for m, i in zip(maps, part, strict=True)]
        return found


def _batch(examples: Sequence[tuple[Image, list[Mask]]]) -> Batch:
    images, masks = np.stack([image for image, _ in examples]), np.stack([masks[0] for _, masks in examples])
    return {"image": to_unit(images), "mask": torch.from_numpy(masks).float()[:, None]}
