"""What every image encoder offers: patch features and one vector of a frame."""

from __future__ import annotations

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polypforge.core.errors import UserError
from polypforge.core.types import Image


class Encoder(nn.Module):
    """image: (B, 3, S, S) float32 in [-1, 1], any S unless said.

    look_px: the side S at which whole frames are looked at. patch_px: pixels of that side which one patch feature stands for.
    name, version: as the user named it, and a hash of the weights; set when the encoder is opened.
    """

    look_px: int = 256
    patch_px: int = 16
    name: str = ""
    version: str = ""

    def look(self, image: Image) -> Tensor:
        """(H, W, 3) uint8 of any size -> what `vector` takes of it: (3, S, S) float32 in [-1, 1], stretched to a square."""
        small = cv2.resize(image, (self.look_px, self.look_px), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(small).permute(2, 0, 1).float() / 127.5 - 1

    @property
    def resizing(self) -> str:
        """How `look` resizes, in words."""
        return f"area to {self.look_px}"

    def maps(self, image: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w), fine to coarse, for perceptual losses. Raises UserError where an encoder has none."""
        raise UserError(f"'{self.name}' gives no feature maps here: use vgg19 or a judge for the perceptual loss.")

    def vector(self, image: Tensor) -> Tensor:
        """(B, D) one feature of the whole image."""
        return self.maps(image)[-1].mean((-2, -1))

    def patches(self, image: Tensor) -> Tensor:
        """(B, S / patch_px, S / patch_px, D) unit length, for S a multiple of patch_px."""
        raise UserError(f"'{self.name}' gives no patch features: use starter:encoder or a DINOv2.")


def unit_grid(maps: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, h, w, D) float32 of unit length."""
    return F.normalize(maps.float(), dim=1).permute(0, 2, 3, 1)
