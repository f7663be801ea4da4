"""Vision transformers of the transformers library: DINOv2 of any size, DINO, ViT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PIL
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.core.types import Image
from polypforge.features.base import Encoder, unit_grid
from polypforge.features.classic import imagenet

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINOV2_PX = 224  # what FD-DINOv2 is measured at (Stein et al. 2023, dgm-eval); the checkpoints' own configuration says 518
LOOK_PATCHES = 32  # patches on a side when a frame is looked at: 448 px for DINOv2


class ClipEncoder(Encoder):
    """The projected image embedding of a CLIP, unit length: what CMMD measures with."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import CLIPVisionModelWithProjection

        self.net = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.look_px = int(self.net.config.image_size)

    @property
    def resizing(self) -> str:
        return f"bicubic to {self.look_px}"

    def look(self, image: Image) -> Tensor:
        return bicubic(image, self.look_px)

    def vector(self, image: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        return F.normalize(self.net(pixel_values=((image + 1) / 2 - mean) / std).image_embeds, dim=-1)


def bicubic(image: Image, size: int) -> Tensor:
    """(3, size, size) in [-1, 1], by Pillow's antialiased bicubic."""
    resized = PIL.fromarray(image).resize((size, size), PIL.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 127.5 - 1


class TransformersEncoder(Encoder):
    """The vector is the class token after the last norm; patch features are the other tokens (Polyp-Gen's choice of DINOv2)."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.net = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        config = self.net.config
        if not hasattr(config, "patch_size") or not hasattr(config, "image_size"):
            raise UserError(f"{folder} holds a {type(self.net).__name__}, not a vision transformer: use a DINOv2 or ViT.")
        self.patch_px = int(config.patch_size)
        self.size = int(config.image_size)
        if config.model_type.startswith("dinov2"):
            self.size = min(self.size, DINOV2_PX)
        self.look_px = LOOK_PATCHES * self.patch_px
        self.extra_tokens = 1 + getattr(config, "num_register_tokens", 0)

    def look(self, image: Image) -> Tensor:
        return bicubic(image, self.size)

    @property
    def resizing(self) -> str:
        return f"bicubic to {self.size}"

    def vector(self, image: Tensor) -> Tensor:
        resized = F.interpolate(imagenet(image), (self.size, self.size), mode="bicubic", antialias=True)
        return self.net(pixel_values=resized).last_hidden_state[:, 0]

    def patches(self, image: Tensor) -> Tensor:
        side = image.shape[-1] // self.patch_px
        own = {} if self.net.config.model_type.startswith("dinov2") else {"interpolate_pos_encoding": True}  # DINOv2 always does
        tokens = self.net(pixel_values=imagenet(image), **own).last_hidden_state[:, self.extra_tokens :]
        return unit_grid(tokens.transpose(1, 2).unflatten(2, (side, side)))
