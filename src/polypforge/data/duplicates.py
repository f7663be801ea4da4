"""Duplicates and near-duplicates: the same picture encoded again, and neighbouring frames of one video.

Two steps. Thumbnails (also mirrored) and common local features propose pairs; those features (SIFT, matched and fitted to one
similarity transform by RANSAC) decide. Equal thumbnails make a duplicate, enough consistent matches a near-duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Image
from polypforge.data.alignment import Rules, align, distinct_places
from polypforge.data.field_of_view import field_of_view
from polypforge.data.local_features import equalised_grey, local_features, unit
from polypforge.data.overlays import overlay_text
from polypforge.data.votes import VoteIndex
from polypforge.masks.shapes import dilate, erode

THUMB_PX = 32
WORK_PX = 360  # longer side for local features
MAX_FEATURES = 400
CONTRAST = 0.03
VOTED = 4  # pictures with the most common features that are looked at closely
CANDIDATES = 16  # nearest thumbnails of each kind that are looked at closely
DUPLICATE_CORRELATION = 0.985
MIN_MATCHES = 10  # consistent matches of a near-duplicate; chosen by eye on Kvasir-SEG (docs/data.md)
POSSIBLE_MATCHES = 8  # from here on about one pair in six is real: linked when splitting, reported as possible
MANY_MATCHES = 30  # from here on, matches that stay in place count too
STILL_PX = 6.0
MIN_MATCH_SHARE = 0.28  # of the tentative matches that must be consistent
RULES = Rules(ratio=0.85, mutual=True, least=POSSIBLE_MATCHES, tolerance_px=6.0, tries=1000, scales=(0.4, 2.5))


@dataclass
class Fingerprint:
    """grey, colour: unit vectors of the thumbnail, and of its mirror image; points (n, 2), descriptors (n, 128)."""

    grey: NDArray[np.float32]
    mirrored: NDArray[np.float32]
    colour: NDArray[np.float32]
    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Indices a < b of two images. kind: "duplicate" (score: the thumbnails' correlation), "near-duplicate" or
    "possible-near-duplicate" (score: the number of consistent matches)."""

    a: int
    b: int
    kind: str
    score: float


def fingerprint(image: Image) -> Fingerprint:
    scale = min(1.0, WORK_PX / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    field = field_of_view(small)
    thumb = cv2.resize(small, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = thumb.mean(-1)
    lab = cv2.cvtColor(cv2.resize(small, (8, 8), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB).astype(np.float32)
    text = cv2.resize(overlay_text(image).astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    where = erode(field & ~dilate(text, 4), 0.02 * max(small.shape))
    points, descriptors = local_features(equalised_grey(small), where, MAX_FEATURES, CONTRAST)
    return Fingerprint(unit(grey), unit(grey[:, ::-1]), unit(lab), points, descriptors)


def consistent_matches(a: Fingerprint, b: Fingerprint) -> tuple[int, int]:
    """(matches that agree on one similarity transform, in distinct places; tentative matches)."""
    found, tentative = align(a, b, RULES)
    if found is None:
        return 0, tentative
    start = found.start
    if len(start) < MANY_MATCHES and float(a.grey @ b.grey) < 0.9:
        # What stays in place while the scene differs is drawn by the video processor: icons, frames, counters.
        start = start[np.linalg.norm(start - found.end, axis=1) > STILL_PX]
    return distinct_places(start), tentative


def find_pairs(prints: Sequence[Fingerprint], advance: Callable[[int], None] | None = None) -> list[Pair]:
    """All duplicates and near-duplicates among the images. `advance(total)` is called after each of `total` comparisons."""
    if len(prints) < 2:
        return []
    grey = np.stack([p.grey for p in prints])
    mirrored = np.stack([p.mirrored for p in prints])
    colour = np.stack([p.colour for p in prints])
    votes = VoteIndex([p.descriptors for p in prints])
    candidates: dict[tuple[int, int], float] = {}
    for i in range(len(prints)):
        # The same picture with another border or inset box has another thumbnail, but shares its local features.
        shared = votes.votes(prints[i].descriptors, own=i)
        for j in np.argsort(-shared)[:VOTED].tolist():
            if shared[j] > 0:
                candidates[min(i, j), max(i, j)] = max(float(grey[i] @ grey[j]), float(grey[i] @ mirrored[j]))
        straight, tint = grey @ grey[i], colour @ colour[i]
        mirror = grey @ mirrored[i]
        for score in (straight, mirror, tint, straight + tint):
            for j in np.argpartition(-score, min(CANDIDATES, len(score) - 1))[: CANDIDATES + 1].tolist():
                if j != i:
                    candidates[min(i, j), max(i, j)] = float(max(straight[j], mirror[j]))
    found = []
    for (a, b), correlation in sorted(candidates.items()):
        if correlation >= DUPLICATE_CORRELATION:
            found.append(Pair(a, b, "duplicate", round(correlation, 4)))
        else:
            matches, tentative = consistent_matches(prints[a], prints[b])
            if matches >= POSSIBLE_MATCHES and matches >= MIN_MATCH_SHARE * tentative:
                kind = "near-duplicate" if matches >= MIN_MATCHES else "possible-near-duplicate"
                found.append(Pair(a, b, kind, float(matches)))
        if advance:
            advance(len(candidates))
    return found
