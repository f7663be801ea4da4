"""Vision transformers of the transformers library: DINOv2 of any size, DINO, ViT."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.features.base import Encoder, unit_grid
from polypforge.features.classic import imagenet

LOOK_PATCHES = 32  # patches on a side when a frame is looked at: 448 px for DINOv2


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
        self.look_px = LOOK_PATCHES * self.patch_px
        self.extra_tokens = 1 + getattr(config, "num_register_tokens", 0)

    def vector(self, image: Tensor) -> Tensor:
        size = self.net.config.image_size
        resized = F.interpolate(imagenet(image), (size, size), mode="bicubic", antialias=True)
        return self.net(pixel_values=resized).last_hidden_state[:, 0]

    def patches(self, image: Tensor) -> Tensor:
        side = image.shape[-1] // self.patch_px
        own = {} if self.net.config.model_type.startswith("dinov2") else {"interpolate_pos_encoding": True}  # DINOv2 always does
        tokens = self.net(pixel_values=imagenet(image), **own).last_hidden_state[:, self.extra_tokens :]
        return unit_grid(tokens.transpose(1, 2).unflatten(2, (side, side)))
