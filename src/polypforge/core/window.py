"""Square, possibly rotated and mirrored windows on a frame: the one geometric transform for crops and pastes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Image, Mask


@dataclass(frozen=True)
class Window:
    """A square of `side_px` frame pixels around (`x`, `y`), turned by `angle_deg`, mirrored when `flip`."""

    x: float
    y: float
    side_px: float
    angle_deg: float = 0.0
    flip: bool = False

    def matrix(self, out_px: int) -> NDArray[np.float64]:
        """2x3 affine map from frame pixels to window pixels (pixel centres at integers)."""
        scale = out_px / self.side_px
        turn = np.deg2rad(self.angle_deg)
        linear = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        if self.flip:
            linear[0] *= -1
        centre = np.full(2, (out_px - 1) / 2)
        offset = centre - linear @ np.array([self.x, self.y])
        return np.hstack([linear, offset[:, None]])

    def crop(self, image: Image, out_px: int) -> Image:
        """(out_px, out_px, 3) uint8; black outside the frame. Shrinks with area averaging, so that nothing aliases."""
        return self._warp(image, out_px)

    def crop_mask(self, mask: Mask, out_px: int) -> Mask:
        """(out_px, out_px) bool, through the same transform; False outside the frame."""
        return self._warp(mask.astype(np.uint8) * 255, out_px) >= 128

    def _warp(self, array: NDArray, out_px: int) -> NDArray:
        # Bilinear warping only averages 2x2 neighbours: shrink in whole octaves by area first.
        reduce = int(max(1, self.side_px // out_px))
        fine_px = out_px * reduce
        fine = cv2.warpAffine(array, self.matrix(fine_px), (fine_px, fine_px), flags=cv2.INTER_LINEAR)
        return fine if reduce == 1 else cv2.resize(fine, (out_px, out_px), interpolation=cv2.INTER_AREA)

    def uncrop(self, patch: NDArray, part: tuple[slice, slice]) -> NDArray:
        """What a part of the frame (rows, columns) shows of a window-sized float32 or uint8 array (S, S[, C])."""
        small = int(np.ceil(self.side_px))
        if patch.shape[0] > small:  # warping doesn't average: shrink by area first, so that nothing aliases
            patch = cv2.resize(patch, (small, small), interpolation=cv2.INTER_AREA)
        rows, columns = part
        inverse = cv2.invertAffineTransform(self.matrix(patch.shape[0]))
        inverse[:, 2] -= columns.start, rows.start
        size = columns.stop - columns.start, rows.stop - rows.start
        return cv2.warpAffine(patch, inverse, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def whole_frame(size: tuple[int, int]) -> Window:
    """The upright square that holds a frame of `size` (height, width)."""
    height, width = size
    return Window((width - 1) / 2, (height - 1) / 2, max(height, width))


def around_mask(mask: Mask, scale: float, min_side_px: float) -> Window:
    """The upright window centred on the bounding box of `mask`: `scale` times its longer side, at least `min_side_px`."""
    ys, xs = np.nonzero(mask)
    x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    side = max(scale * max(x1 - x0, y1 - y0), min_side_px)
    return Window((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2, side)
