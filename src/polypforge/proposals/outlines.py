"""Where a lesion's outline comes from: drawn by rule, from real masks, or from a model of masks.

A source gives `draw(rng, wanted)`: (n, 2) points around (0, 0) that enclose an area of pi (a circle of radius 1 would do so).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.errors import UserError
from polypforge.core.types import Attributes, Mask
from polypforge.masks.shapes import components, outline

Points = NDArray[np.float64]
PARIS = ("Ip", "Is", "IIa", "IIb", "IIc")
CORNERS = 48
NEAREST = 12


class Outlines(ABC):
    @abstractmethod
    def draw(self, rng: np.random.Generator, wanted: Attributes) -> Points:
        """An outline for a lesion of these attributes."""


class Blobs(Outlines):
    """Rounded outlines with low harmonics, as long as is asked."""

    def draw(self, rng: np.random.Generator, wanted: Attributes) -> Points:
        return blob(rng, wanted.elongation)


class ParisOutlines(Outlines):
    """Outlines as the Paris classes look from above or from the side (Endoscopic Classification Review Group 2005).

    Ip: a round head with a stalk seen beside it. Is: round. IIa, IIb, IIc: flat, larger waves the flatter, IIc with a star-like rim.
    classes: drawn from evenly.
    """

    def __init__(self, classes: Sequence[str] = PARIS) -> None:
        unknown = [c for c in classes if c not in PARIS]
        if unknown or not classes:
            raise UserError(f"there is no Paris class '{(unknown or [''])[0]}': choose of {', '.join(PARIS)}.")
        self.classes = tuple(classes)

    def draw(self, rng: np.random.Generator, wanted: Attributes) -> Points:
        kind = self.classes[rng.integers(len(self.classes))]
        if kind == "Ip":
            return _with_stalk(rng)
        elongation = float(np.clip(wanted.elongation, 0.75, 1.0)) if kind == "Is" else wanted.elongation
        waves = {"Is": (0.05, 4), "IIa": (0.10, 6), "IIb": (0.14, 7), "IIc": (0.12, 11)}[kind]
        return blob(rng, elongation, *waves)


class KnownOutlines(Outlines):
    """Outlines that exist, of the data's own masks or a model's, one of the few nearest in shape, under a random affine and elastic change.

    known: (elongation, solidity) and outline of each, see `unit_outline`. stretch: greatest change of one axis against the other. bend: of
    the elastic part, as a share of the lesion's radius; 0 for both only turns and mirrors.
    """

    def __init__(self, known: Sequence[tuple[tuple[float, float], Points]], stretch: float = 0.25, bend: float = 0.12) -> None:
        if not known:
            raise UserError("there is no lesion mask to take outlines from.")
        self.shapes, self.known = np.array([s for s, _ in known]), [points for _, points in known]
        self.stretch, self.bend = stretch, bend

    def draw(self, rng: np.random.Generator, wanted: Attributes) -> Points:
        away = np.abs(self.shapes - (wanted.elongation, wanted.solidity)).sum(1)
        picks = np.argsort(away, kind="stable")[:NEAREST]
        points = self.known[picks[rng.integers(len(picks))]]
        turn = rng.uniform(0, 2 * np.pi)
        c, s = np.cos(turn), np.sin(turn)
        first = float(np.exp(rng.uniform(-self.stretch, self.stretch) / 2))
        changed = points @ (np.array([[c, -s], [s, c]]) * [[first], [1 / first]])
        if rng.random() < 0.5:
            changed[:, 0] *= -1
        return of_unit_area(changed + elastic(changed, self.bend, rng))


def blob(rng: np.random.Generator, elongation: float, wave: float = 0.10, orders: int = 4) -> Points:
    """(48, 2) points of a rounded outline, turned at random. wave: size of its harmonics from the second to `orders`."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = np.ones_like(angle)
    for order in range(2, orders + 1):
        radius += rng.normal(0, wave / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    stretch = np.sqrt(np.clip(elongation, 0.3, 1.0))
    points = np.stack([radius * np.cos(angle) / stretch, radius * np.sin(angle) * stretch], 1)
    return of_unit_area(_turned(points, rng.uniform(0, np.pi)))


def _with_stalk(rng: np.random.Generator) -> Points:
    head = blob(rng, float(rng.uniform(0.8, 1.0)), 0.06)
    side, width, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.42), rng.uniform(0.5, 1.1)
    canvas = np.zeros((200, 200), np.uint8)
    scale, middle = 36.0, np.array([100.0, 100.0])
    cv2.fillPoly(canvas, [np.rint(head * scale + middle).astype(np.int32)], 1)
    foot = middle + scale * (1 + length) * np.array([np.cos(side), np.sin(side)])
    cv2.line(canvas, (100, 100), (round(foot[0]), round(foot[1])), 1, round(2 * width * scale))
    smooth = cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), 3) > 0.5
    return unit_outline(smooth)


def unit_outline(mask: Mask) -> Points:
    """The largest part of a mask as an outline of unit radius. Raises ValueError for an empty mask."""
    part = components(mask)[0] if mask.any() else mask
    return of_unit_area(np.asarray(outline(part, max(0.5, 0.01 * float(np.sqrt(part.sum())))), float))


def of_unit_area(points: Points) -> Points:
    """The same shape around its centroid with an area of pi."""
    moments = cv2.moments(points.astype(np.float32).reshape(-1, 1, 2))
    area = abs(moments["m00"])
    centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"] if area > 1e-6 else points.mean(0)
    return (points - centre) * np.sqrt(np.pi / max(area, 1e-6))


def elastic(points: Points, size: float, rng: np.random.Generator) -> Points:
    """(n, 2) displacements, smooth over the plane: a few waves about as long as the shape (Simard et al. 2003, with waves)."""
    moved = np.zeros_like(points)
    for _ in range(4):
        wave = rng.normal(0, 1.2, 2)
        moved += np.cos(points @ wave + rng.uniform(0, 2 * np.pi))[:, None] * rng.normal(0, size / 2, 2)
    return moved


def _turned(points: Points, angle: float) -> Points:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, -s], [s, c]])
