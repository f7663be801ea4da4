"""Polyps for the phantom: where they sit, their outline, and how far they rise towards the camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.phantom.colon import Colon
from polypforge.phantom.variety import PLAIN, Variety

Map = NDArray[np.float32]
KINDS = ("sessile", "pedunculated", "flat")


@dataclass(frozen=True)
class Polyp:
    """One polyp: kind (Paris Is, Ip, IIa), centre and radius in pixels, colours, relief."""

    kind: str
    x: float
    y: float
    radius_px: float
    aspect: float
    turn: float
    height: float
    redness: float
    pallor: float
    pits: float
    seed: int


def sample_polyp(rng: np.random.Generator, colon: Colon, field: NDArray[np.bool_], variety: Variety = PLAIN) -> Polyp | None:
    """A polyp on a lit wall in the field of view; None when no place was found in 40 trials."""
    size = field.shape[0]
    kind = str(rng.choice(KINDS, p=[0.5, 0.22, 0.28]))
    for _ in range(40):
        x, y = rng.uniform(0.1, 0.9, 2) * size
        depth = float(colon.depth[int(y), int(x)])
        radius = size * rng.choice(variety.radii, p=variety.radius_shares) * rng.uniform(0.75, 1.35)
        if field[int(y), int(x)] and depth < 3.2 and np.hypot(x - colon.lumen[0], y - colon.lumen[1]) > 0.8 * radius:
            break
    else:
        return None
    height = {"sessile": rng.uniform(0.55, 1.0), "pedunculated": rng.uniform(0.9, 1.3), "flat": rng.uniform(0.16, 0.34)}[kind]
    return Polyp(
        kind, x, y, radius, rng.uniform(0.62, 1.0), rng.uniform(0, np.pi), height,
        redness=rng.normal(0.10, 0.11 * variety.colours), pallor=rng.normal(0.02, 0.07 * variety.colours), pits=rng.uniform(0.2, 1.0),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def profile(polyp: Polyp, colon: Colon) -> tuple[Map, Map]:
    """(q, rise): q < 1 inside the outline; rise in 0..1 is the dome's height there. Both (S, S) float32.

    The outline is an ellipse whose radius wobbles with low harmonics; lobes make the top uneven.
    """
    rng = np.random.default_rng(polyp.seed)
    size = colon.depth.shape[0]
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    dx, dy = xs - polyp.x, ys - polyp.y
    c, s = np.cos(polyp.turn), np.sin(polyp.turn)
    u = (c * dx + s * dy) / polyp.radius_px
    v = (-s * dx + c * dy) / (polyp.radius_px * polyp.aspect)
    distance, theta = cv2.cartToPolar(u.astype(np.float32), v.astype(np.float32))
    wobble = np.ones_like(distance)
    for order in range(2, 7):
        wobble += rng.normal(0, 0.16 / order) * np.cos(order * theta + rng.uniform(0, 6.3))
    q = distance / wobble
    rise = np.sqrt(np.clip(1 - q**2, 0, 1))
    if polyp.kind == "flat":
        rise = np.clip((1 - q) / 0.3, 0, 1) ** 0.7
    lobes = np.zeros_like(q)
    for _ in range(rng.integers(2, 7)):
        a, b, w = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(0.2, 0.5)
        lobes += rng.uniform(-0.12, 0.2) * np.exp(-((u - a) ** 2 + (v - b) ** 2) / w**2)
    rise = np.clip(rise * (1 + lobes), 0, 1.5)
    if polyp.kind == "pedunculated":
        q, rise = _with_stalk(polyp, colon, u, v, q, rise)
    return q.astype(np.float32), rise.astype(np.float32)


def _with_stalk(polyp: Polyp, colon: Colon, u: Map, v: Map, q: Map, rise: Map) -> tuple[Map, Map]:
    """Adds a stalk that runs from the head away from the lumen, thinner and lower than the head."""
    dx, dy = polyp.x - colon.lumen[0], polyp.y - colon.lumen[1]
    away = np.arctan2(dy, dx) - polyp.turn
    along = u * np.cos(away) + v * np.sin(away)
    across = -u * np.sin(away) + v * np.cos(away)
    width = 0.36 + 0.12 * np.clip(along - 0.8, 0, 1)
    stalk_q = np.where((along > 0.3) & (along < 2.2), np.abs(across) / width, 9)
    stalk_q = np.hypot(np.minimum(stalk_q, 9), np.clip((along - 1.3) / 0.6, 0, None))
    stalk_rise = 0.5 * np.sqrt(np.clip(1 - np.minimum(stalk_q, 1) ** 2, 0, 1)) * np.clip((1.8 - along) / 1.2, 0, 1)
    return np.minimum(q, stalk_q), np.maximum(rise, stalk_rise)
