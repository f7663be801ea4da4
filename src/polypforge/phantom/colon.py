"""Geometry of an empty colon seen from inside: a bending tube with haustral folds, in perspective, with occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
ANGLES, DEPTHS, RADII = 240, 220, 200  # samples of the tube's angle, its axis, and the distance from the vanishing point


@dataclass
class Colon:
    """What each pixel sees. All maps are (S, S) float32; lengths are in tube radii.

    depth: distance along the optical axis. angle: around the axis, radians. focal_px: focal length in pixels.
    grid_x, grid_y: pixel offsets from the image centre.
    """

    depth: Map
    angle: Map
    focal_px: float
    grid_x: Map
    grid_y: Map
    lumen: tuple[float, float]


def tube_radius(rng: np.random.Generator, z: Map, angle: Map) -> Map:
    """(DEPTHS, ANGLES) radius of the wall: slow undulation, minus semilunar folds at irregular intervals."""
    radius = np.ones((len(z), len(angle)), np.float32)
    for order in range(1, 4):
        phase, rate = rng.uniform(0, 2 * np.pi, 2)
        radius += 0.07 / order * np.cos(order * angle[None] + phase + 0.6 * np.sin(rate + z[:, None]))
    position = rng.uniform(0.5, 1.4)
    while position < z[-1]:
        height = rng.uniform(0.10, 0.46)
        width = rng.uniform(0.09, 0.28)
        centre, breadth = rng.uniform(0, 2 * np.pi), rng.uniform(-0.6, 0.7)
        around = 1 / (1 + np.exp(-4 * (np.cos(angle - centre) + breadth)))
        tilt = rng.uniform(-0.35, 0.35) * np.cos(angle - rng.uniform(0, 2 * np.pi))
        wobble = 0.06 * np.cos(3 * angle + rng.uniform(0, 6.3))
        offset = (z[:, None] - position - tilt[None] - wobble[None]) / width
        radius -= (height * around)[None] * np.exp(-(np.abs(offset) ** 1.6)).astype(np.float32)
        position += rng.uniform(0.35, 1.0)
    return np.maximum(radius, 0.15)


def look_into(rng: np.random.Generator, size: int, wall: bool = False) -> Colon:
    """Choose a viewpoint and render the tube's depth and angle at (size, size). wall: the lumen lies out of sight."""
    focal = size * rng.uniform(0.42, 0.62)
    away = rng.uniform(0.05, 0.62) * size + (0.6 * size if wall else 0.0)
    toward = rng.uniform(0, 2 * np.pi)
    lumen = (size / 2 + away * np.cos(toward), size / 2 + away * np.sin(toward))

    z = np.geomspace(0.25, 11, DEPTHS).astype(np.float32)
    angle = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False, dtype=np.float32)
    radius = tube_radius(rng, z, angle)
    bend = rng.uniform(0, 0.09) * np.cos(angle - rng.uniform(0, 2 * np.pi))
    seen = focal * np.maximum(radius + bend[None] * z[:, None] ** 1.3, 0.02) / z[:, None]
    seen = np.minimum.accumulate(seen, 0)  # a fold hides what lies behind it

    reach = np.linspace(0, (1.9 if wall else 1.25) * size, RADII, dtype=np.float32)
    table = np.stack([np.interp(reach, seen[::-1, k], z[::-1]) for k in range(ANGLES)], 1).astype(np.float32)
    table = np.concatenate([table[:, -1:], table, table[:, :2]], 1)  # wrap for interpolation

    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    dx, dy = xs - np.float32(lumen[0]), ys - np.float32(lumen[1])
    rho, phi = cv2.cartToPolar(dx, dy)
    column = phi / np.float32(2 * np.pi) * ANGLES + ANGLES / 2
    column = np.mod(column, ANGLES) + 1
    depth = cv2.remap(table, column, rho / reach[-1] * (RADII - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    half = np.float32((size - 1) / 2)
    return Colon(depth, phi, focal, xs - half, ys - half, lumen)
