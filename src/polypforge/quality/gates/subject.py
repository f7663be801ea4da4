"""What a gate looks at: one lesion, synthetic or real, with its frame and what the judges see there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.images import darkest_channel, shrunk_size
from polypforge.core.types import NORMAL, POLYP, Box, Case, Image, Mask, Request
from polypforge.core.window import Window
from polypforge.data.field_of_view import field_of_view
from polypforge.data.source import donor_of
from polypforge.masks.shapes import bounding_box, dilate, loosened, polygon_mask, region_mask
from polypforge.quality.audit.copies import Match

CROP_PX = 192  # longer side at which light and texture are measured
CROP_MARGIN = 0.5  # of the lesion's longer side, on each side
EDIT_MARGIN = 0.25  # of the region's
HIGHLIGHT = 225  # least of the three channels: wet reflections, which say nothing of texture


@dataclass
class Look:
    """What a judge sees in one square window: lesion probability, and label and field of view there; all (S, S)."""

    window: Window
    chance: NDArray[np.float32]
    label: Mask
    field: Mask

    @cached_property
    def found(self) -> Mask:
        return (self.chance > 0.5) & self.field


@dataclass
class Crop:
    """The lesion with its surroundings, at most CROP_PX a side: pixels, lesion, region, field of view, and the ring of tissue around the
    lesion."""

    image: Image
    lesion: Mask
    region: Mask
    field: Mask
    ring: Mask

    @cached_property
    def lab(self) -> NDArray[np.float32]:
        """(h, w, 3) CIELAB."""
        return cv2.cvtColor(self.image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)

    @cached_property
    def dull(self) -> Mask:
        """Pixels without a wet highlight within 2 pixels."""
        bright = (darkest_channel(self.image) >= HIGHLIGHT).astype(np.uint8)
        return cv2.dilate(bright, np.ones((5, 5), np.uint8)) == 0


@dataclass
class Subject:
    """One case before the gates.

    region: pixels that may have changed. lesion: the part of the label inside it. asked: the outline that was asked for, or None.
    label: "polyp" or "normal" (the lesion in the region was to be removed). made_from: name of the real case behind it, or "": the one
    whose lesion was pasted, or else whose frame was repainted.
    looks: by judge, first the window around the lesion, then any others. sightings: by detector, (box in frame pixels, confidence).
    nearest: the most similar training lesion.
    """

    id: str
    case: Case
    region: Mask
    lesion: Mask
    label: str = POLYP
    asked: Mask | None = None
    made_from: str = ""
    looks: dict[str, list[Look]] = field(default_factory=dict)
    sightings: dict[str, list[tuple[Box, float]]] = field(default_factory=dict)
    nearest: Match | None = None

    @classmethod
    def synthetic(cls, case: Case, request: Request) -> Subject:
        region = region_mask(request.region, case.size)
        lesion = case.mask & region if case.mask is not None else np.zeros(case.size, bool)
        asked = polygon_mask(list(request.lesion), case.size) if request.lesion else None
        return cls(request.id, case, region, lesion, request.label, asked, donor_of(case) or request.background)

    @classmethod
    def real(cls, case: Case, lesion: Mask, margin: float = 0.12) -> Subject:
        """A real lesion as if it had just been drawn into a region around it."""
        return cls(case.name, case, loosened(lesion, margin), lesion, POLYP, None, case.name)

    @property
    def removed(self) -> bool:
        return self.label == NORMAL

    @property
    def whole_frame(self) -> bool:
        return bool(self.region.all())

    @cached_property
    def field(self) -> Mask:
        return field_of_view(self.case.image)

    @cached_property
    def crop(self) -> Crop | None:
        """Around the lesion; None when nothing was drawn."""
        return self._cropped(self.lesion, CROP_MARGIN)

    @cached_property
    def edit_crop(self) -> Crop | None:
        """Around the whole edit; None when nothing was drawn, and for a new frame, which has no edge."""
        return None if self.whole_frame else self._cropped(self.region, EDIT_MARGIN)

    def _cropped(self, around: Mask, share: float) -> Crop | None:
        if not self.lesion.any():
            return None
        x0, y0, x1, y1 = bounding_box(around)
        margin = int(share * max(x1 - x0, y1 - y0)) + 4
        where = (slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin))
        image = self.case.image[where]
        scale, size = shrunk_size(image.shape, CROP_PX)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else np.ascontiguousarray(image)
        lesion, region, field_, label = (
            cv2.resize(np.ascontiguousarray(m[where]).view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            for m in (self.lesion, self.region, self.field, self.case.mask if self.case.mask is not None else self.lesion)
        )
        if not lesion.any():  # thinner than a pixel of the crop
            return None
        ring = dilate(lesion, max(3.0, 0.3 * float(np.sqrt(lesion.sum())))) & ~lesion & ~label & field_
        return Crop(small, lesion, region, field_, ring)
