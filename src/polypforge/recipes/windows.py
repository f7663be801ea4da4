"""What recipes see of a frame: a square window around a region to repaint, or a whole square frame; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polypforge.core.errors import UserError
from polypforge.core.types import NORMAL, POLYP, Box, Case, Image, Mask
from polypforge.core.window import Window, around_mask
from polypforge.data.prepared import Prepared, prepare
from polypforge.masks.shapes import (
    bounding_box,
    box_mask,
    component_boxes,
    components,
    enlarge,
    erode,
    inner_distance,
    polygon_mask,
    region_mask,
)
from polypforge.models.pixels import to_unit
from polypforge.recipes.base import Job

REPAINTED = 0.95  # share of a lesion's visible part that a region must cover for the lesion to be gone
NEARBY = 0.12  # of the window's side: so far around a region the drawing is brought into the frame
FEATHER = 0.06  # width of the blend inside the region, as a share of the window's side
LABEL_MARGIN = 0.06  # where no outline was asked for: of the region's longer side, left free around the lesion


@dataclass(frozen=True)
class View:
    """A job's window on its frame, with the region and the field of view of the whole frame."""

    window: Window
    frame: Image
    region: Mask
    field: Mask

    @classmethod
    def of(cls, job: Job, scale: float, min_side_px: float) -> View:
        """The window around the job's region. Raises UserError when nothing of the region can be seen."""
        background = job.background
        field = prepare(background).field
        region = region_mask(job.request.region, background.size) & field
        if not region.any():
            raise UserError(f"the region of request {job.request.id} lies outside the field of view of '{background.name}'.")
        if background.mask is None and background.boxes and not _covers(region, field, background.boxes):
            raise UserError(
                f"'{background.name}' has boxes but no mask: its region must cover every box, or the label would lack a lesion."
            )
        return cls(around_mask(region, scale, min_side_px), background.image, region, field)

    def around(self, margin_px: float) -> tuple[slice, slice]:
        """The part of the frame that holds the region and `margin_px` around it."""
        x0, y0, x1, y1 = enlarge(bounding_box(self.region), int(np.ceil(margin_px)), self.region.shape)
        return np.s_[y0:y1, x0:x1]

    def planes(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(image (3, S, S) in [-1, 1], region (1, S, S), field (1, S, S)) float32, in the window."""
        region, field = (torch.from_numpy(self.window.crop_mask(m, size)).float()[None] for m in (self.region, self.field))
        return to_unit(self.window.crop(self.frame, size)[None])[0], region, field

    def plane(self, mask: Mask, size: int) -> Tensor:
        """A mask of the frame in the window: (1, S, S) float32."""
        return torch.from_numpy(self.window.crop_mask(mask, size)).float()[None]

    def enlarged(self, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
        """`drawn` (S, S, 3) in [-1, 1] in its place: (H, W, 3) float32 in 0..255, the region and NEARBY around it; black elsewhere."""
        part = self.around(NEARBY * self.window.side_px)
        placed = np.zeros(self.frame.shape, np.float32)
        placed[part] = self.window.uncrop(np.ascontiguousarray(drawn), part) * np.float32(127.5) + np.float32(127.5)
        return placed

    def paste(self, pixels: NDArray[np.float32]) -> Image:
        """The frame with `pixels` (H, W, 3) in 0..255 in its region; every pixel outside the region bit-equal to the frame's."""
        # Blend where the region meets tissue that stays; at the edge of the frame or field there is nothing to blend with.
        width = max(2.0, FEATHER * self.window.side_px)
        part = self.around(width + 1)
        region, frame = self.region[part], self.frame[part]
        stays = self.field[part] & ~region
        depth = cv2.distanceTransform((~stays).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        blend = cv2.merge([np.clip(depth / width, 0, 1)] * 3)  # numpy is slow along an axis of three
        mixed = frame * (1 - blend) + np.clip(pixels[part], 0, 255) * blend
        pasted = self.frame.copy()
        pasted[part] = cv2.copyTo(np.rint(mixed).astype(np.uint8), region.astype(np.uint8), frame.copy())
        return pasted

    def lesion_in(self, drawn: NDArray[np.float32]) -> Mask:
        """The lesion of a drawn mask plane (S, S), positive inside: cut to the region, without specks and holes."""
        part = self.around(0)
        found = np.zeros_like(self.region)
        found[part] = (self.window.uncrop(np.ascontiguousarray(drawn), part) > 0) & self.region[part]
        return main_part(found)


def asked_lesion(job: Job, view: View) -> Mask:
    """The lesion that the request asks for, cut to what can be seen; without an outline, the region less a margin.

    The margin is a share of the region's length, and at most half of what a narrow region is thick, which would else hold no lesion.
    """
    if job.request.label == NORMAL:
        return np.zeros_like(view.region)
    if job.request.lesion:
        lesion = polygon_mask(list(job.request.lesion), view.region.shape) & view.region
        if not lesion.any():
            raise UserError(f"request {job.request.id}: the lesion that it asks for lies outside its region or the field of view.")
        return lesion
    x0, y0, x1, y1 = bounding_box(view.region)
    half_as_thick = float(inner_distance(view.region).max()) / 2
    return erode(view.region, min(LABEL_MARGIN * max(x1 - x0, y1 - y0), half_as_thick)) & view.region


def finished(job: Job, region: Mask, field: Mask, image: Image, lesion: Mask) -> Case:
    """The case with its complete label: the new lesion and what of the old label still shows outside the repainted `region`."""
    old = job.background
    if old.mask is None and old.boxes and not _covers(region, field, old.boxes):
        raise UserError(f"'{old.name}' has boxes but no mask, and the lesion asked for covers not all of them: the label would lack one.")
    mask = remaining(old.mask, region, field) | lesion
    return Case(
        name=job.request.id,
        image=image,
        mask=mask,
        boxes=component_boxes(mask, 4),
        label=POLYP if mask.any() else NORMAL,
        group=old.group,
        split=old.split,
    )


def remaining(old: Mask | None, region: Mask, field: Mask) -> Mask:
    """What of the old label still shows: everything outside the region, but no lesion whose visible part was repainted.

    Labels reach a little over the edge of the field of view; such a rim of a repainted lesion is no lesion.
    """
    if old is None:
        return np.zeros(region.shape, bool)
    kept = np.zeros(region.shape, bool)
    for lesion in components(old):
        seen = lesion & field
        if not seen.any() or (seen & region).sum() < REPAINTED * seen.sum():
            kept |= lesion & ~region
    return kept


def main_part(mask: Mask) -> Mask:
    """The largest component with its holes filled, plus any other at least a quarter as large: specks are not lesions."""
    parts = components(mask, 12)
    if not parts:
        return np.zeros_like(mask)
    kept = np.any([p for p in parts if p.sum() >= 0.25 * parts[0].sum()], axis=0)
    contours, _ = cv2.findContours(kept.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    return filled.astype(bool)


def square_window(prepared: Prepared, rng: np.random.Generator | None = None, vary: bool = False) -> Window:
    """The largest upright square on the frame that keeps its lesion; with `rng` at a random place that still does.

    vary: a random turn, mirror image and zoom instead, always inside the frame: the papers' random resized crop and rotation without
    the black corners that rotation makes.
    """
    height, width = prepared.field.shape
    side = float(min(height, width))
    x0, y0, x1, y1 = prepared.boxes[0] if prepared.boxes else (0, 0, width, height)
    x, y = (x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2
    angle = 0.0
    if rng is not None and vary:
        angle = 90.0 * rng.integers(0, 4) + (rng.uniform(-20, 20) if rng.random() < 0.5 else 0.0)
        turn = np.deg2rad(angle)
        side *= float(rng.uniform(0.75, 1.0)) / (abs(np.cos(turn)) + abs(np.sin(turn)))
        x, y = x + rng.normal(0, 0.08) * side, y + rng.normal(0, 0.08) * side
    turn = np.deg2rad(angle)
    reach = side * (abs(np.cos(turn)) + abs(np.sin(turn))) / 2
    x, y = float(np.clip(x, reach - 0.5, width - 0.5 - reach)), float(np.clip(y, reach - 0.5, height - 0.5 - reach))
    return Window(x, y, side, angle, bool(rng.random() < 0.5) if rng is not None and vary else False)


def square_around(region: Mask) -> Window | None:
    """The largest upright square on the frame around a region; None when the region doesn't fit in it."""
    height, width = region.shape
    side = min(height, width)
    x0, y0, x1, y1 = bounding_box(region)
    if max(x1 - x0, y1 - y0) > side:
        return None
    x = float(np.clip((x0 + x1 - 1) / 2, side / 2 - 0.5, width - 0.5 - side / 2))
    y = float(np.clip((y0 + y1 - 1) / 2, side / 2 - 0.5, height - 0.5 - side / 2))
    return Window(x, y, float(side))


def channels_last(unit: Tensor) -> NDArray[np.float32]:
    """(N, C, S, S) -> (N, S, S, C) float32 on the CPU."""
    return unit.float().permute(0, 2, 3, 1).cpu().numpy()


def whole_frame(job: Job, image: Image, mask: Mask, group: str) -> Case:
    """A case whose every pixel is new."""
    return Case(job.request.id, image, mask, component_boxes(mask, 4), POLYP if mask.any() else NORMAL, group=group)


def _covers(region: Mask, field: Mask, boxes: Sequence[Box]) -> bool:
    return all((box_mask(b, region.shape) & field & ~region).mean() < 0.2 * box_mask(b, region.shape).mean() for b in boxes)
