"""Copies of a picture, whatever was done to it: local features that a flip, crop, turn, recompression or change of colour leaves.

A query's features vote for training pictures; the best candidates are fitted with one similarity transform, warped onto the query and
compared pixel by pixel. Whole frames and single lesions (their crops, their insides alone) are compared in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.images import shrunk_size
from polypforge.core.types import Image, Mask
from polypforge.data.alignment import Rules, align, distinct_places
from polypforge.data.field_of_view import field_of_view
from polypforge.data.local_features import equalised_grey, local_features, mirrored_features, unit
from polypforge.data.overlays import overlay_text
from polypforge.data.votes import VoteIndex
from polypforge.masks.shapes import bounding_box, dilate, erode

FRAME_PX, LESION_PX = 320, 256  # longer sides
MAX_FEATURES = 400
CONTRAST = 0.004  # faint features too: mucosa is smooth
CANDIDATES = 8
LEAST_MATCHES = 5
THUMB_PX = 32
RULES = Rules(ratio=0.92, mutual=False, least=LEAST_MATCHES, tolerance_px=4.0, tries=2000, scales=(0.25, 4.0))
NONE = -1.0  # the correlation where no transform fits


@dataclass
class View:
    """grey: (h, w) uint8, equalised; where: pixels that count; points (n, 2); descriptors (n, 128) float32 of unit length;
    thumb (THUMB_PX ** 2,) of zero mean and unit length."""

    grey: NDArray[np.uint8]
    where: Mask
    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    thumb: NDArray[np.float32]


@dataclass(frozen=True)
class Match:
    """The most similar training picture (-1: none). correlation: of fine structure after alignment, 1 for a copy, NONE where nothing
    could be aligned. matches: features that the alignment explains."""

    index: int
    correlation: float
    matches: int


def frame_view(image: Image) -> View:
    """A whole frame, without its border, inset box and burnt-in text, which many frames share."""
    _, size = shrunk_size(image.shape, FRAME_PX)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    text = cv2.resize(overlay_text(image).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    where = erode(field_of_view(small) & ~dilate(text, 3), 0.015 * max(size))
    return _view(small, where)


def lesion_view(image: Image, lesion: Mask) -> View:
    """The inside of one lesion, enlarged to LESION_PX. Raises ValueError for an empty mask."""
    x0, y0, x1, y1 = bounding_box(lesion)
    margin = int(0.08 * max(x1 - x0, y1 - y0)) + 2
    part = (slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin))
    crop, mask = image[part], lesion[part].astype(np.uint8)
    scale = LESION_PX / max(crop.shape[:2])
    size = (max(8, round(crop.shape[1] * scale)), max(8, round(crop.shape[0] * scale)))
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return _view(crop, erode(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 0, 0.02 * LESION_PX))


def mirrored(view: View) -> View:
    """The mirror image as it would be seen."""
    points, descriptors = mirrored_features(view.points, view.descriptors, view.grey.shape[1])
    thumb = view.thumb.reshape(THUMB_PX, THUMB_PX)[:, ::-1].reshape(-1)
    return View(np.ascontiguousarray(view.grey[:, ::-1]), np.ascontiguousarray(view.where[:, ::-1]), points, descriptors, thumb)


def _view(image: Image, where: Mask) -> View:
    grey = equalised_grey(image)
    points, descriptors = local_features(grey, where, MAX_FEATURES, CONTRAST)
    thumb = cv2.resize(grey, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    return View(grey, where, points, descriptors, unit(thumb))


class CopyIndex:
    """Training pictures to be compared with, all frames or all lesions."""

    def __init__(self, views: Sequence[View]) -> None:
        """Raises ValueError for no picture."""
        if not views:
            raise ValueError("there is nothing to compare with")
        self.views = list(views)
        self._votes = VoteIndex([v.descriptors for v in views])
        self._thumbs = np.stack([v.thumb for v in views])

    def nearest(self, view: View, exclude: Sequence[int] = ()) -> Match:
        """The training picture most like `view` under any flip, turn, crop or scale. `exclude`: those that don't count."""
        allowed = np.ones(len(self.views), bool)
        allowed[list(exclude)] = False
        best = Match(-1, NONE, 0)
        for pose in (view, mirrored(view)):
            for candidate in self._candidates(pose, allowed):
                found = compare(pose, self.views[candidate])
                if (found[0], found[1]) > (best.correlation, best.matches):
                    best = Match(candidate, *found)
        return best

    def _candidates(self, view: View, allowed: Mask) -> list[int]:
        """Pictures that share features, and those whose thumbnail is alike in one of four turns."""
        votes = np.where(allowed, self._votes.votes(view.descriptors), 0)
        thumb = view.thumb.reshape(THUMB_PX, THUMB_PX)
        alike = np.max([self._thumbs @ np.ascontiguousarray(np.rot90(thumb, k)).reshape(-1) for k in range(4)], 0)
        chosen = [int(i) for i in np.argsort(-votes)[:CANDIDATES] if votes[i] > 0]
        chosen += [int(i) for i in np.argsort(-np.where(allowed, alike, -2))[:2] if allowed[i]]
        return sorted(set(chosen))


def compare(a: View, b: View) -> tuple[float, int]:
    """(correlation after alignment, matching features in distinct places); (NONE, 0) where no similarity transform fits."""
    found, _ = align(a, b, RULES)
    places = distinct_places(found.start) if found else 0
    if found is None or places < LEAST_MATCHES:
        return NONE, 0
    return aligned_correlation(a, b, found.transform), places


def aligned_correlation(a: View, b: View, transform: NDArray[np.float64]) -> float:
    """Correlation of fine structure where `a`, moved by the 2x3 `transform`, overlaps `b`; NONE where they hardly overlap."""
    size = b.grey.shape[::-1]
    moved = cv2.warpAffine(a.grey, transform, size, flags=cv2.INTER_LINEAR)
    where = cv2.warpAffine(a.where.astype(np.uint8), transform, size, flags=cv2.INTER_NEAREST).astype(bool) & b.where
    if where.sum() < 0.05 * where.size:
        return NONE
    return float(unit(_fine(moved)[where]) @ unit(_fine(b.grey)[where]))


def _fine(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What is larger than noise and smaller than light and shade."""
    values = grey.astype(np.float32)
    return cv2.GaussianBlur(values - cv2.GaussianBlur(values, (0, 0), 12), (0, 0), 1.5)
