"""Wet highlights for what was drawn. The base stage sees a window at 64 pixels, where a glint is a pale blotch: its light, spread too wide.

Reflected light is white, whatever the tissue's colour (dichromatic reflection: Shafer 1985, Using Color to Separate Reflection Components),
so the darkest channel shows it. It is taken from the blotches, each channel down to the tissue around, and a part of it given back as sharp
spots of white where it was brightest: as many, as large and as much of the lesion as real lesions show.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.images import darkest_channel
from polypforge.core.seeding import numpy_rng
from polypforge.masks.shapes import erode
from polypforge.recipes.windows import FEATHER, View

BLOTCH_PX = 14  # in a window of 256, radius of what may be a reflection; wider light is shading
LEAST = 6.0  # of 255; less light than this is no reflection
RETURNED = 0.35  # of the light of blotches, as spots: cameras clip real glints, and the detail stage draws some by itself
WHITE = (246.0, 244.0, 244.0)
RAGGED = 0.5  # how far the moist surface's relief breaks a spot up, as deviation of log light
RELIEF_PX = (1.6, 5.0)  # in a window of 256, its finest and coarsest scale; no larger than in a frame of USUAL_PX, however large the lesion
USUAL_PX = 512
SOFT_PX = 0.6  # of the frame: a camera's own blur


def with_glints(view: View, pixels: NDArray[np.float32], drawn: NDArray[np.float32], share: float, seed: int) -> NDArray[np.float32]:
    """`pixels` (H, W, 3) float32 in 0..255, without `share` (0..1) of the reflected light in the region, but with glints.

    drawn: (S, S, 3) in about [-1, 1], the window that the pixels came from. The border of the region, where drawing and frame are blended,
    is left as it is: half a glint is a grey speck.
    """
    part = view.around(0)
    inner = erode(view.region[part], FEATHER * view.window.side_px)
    *lit, light = (share * plane.clip(0) * inner for plane in cv2.split(view.window.uncrop(reflected(drawn), part)))
    if not light.any():
        return pixels
    scale = min(view.window.side_px / 256, max(view.region.shape) / USUAL_PX)
    matt = pixels[part] - cv2.merge(lit)
    spots = _spots(RETURNED * light, darkest_channel(matt), scale, seed)
    wet = pixels.copy()
    wet[part] = cv2.merge([plane * (1 - spots) + np.float32(white) * spots for plane, white in zip(cv2.split(matt), WHITE, strict=True)])
    return wet


def reflected(drawn: NDArray[np.float32]) -> NDArray[np.float32]:
    """(S, S, 3) in about [-1, 1] -> (S, S, 4) float32, 0..255: by how much reflections raise each channel above the tissue around, and the
    darkest channel. A saturated channel is raised least: were all lowered alike, the tissue would turn grey."""
    scale = len(drawn) / 256
    planes = np.dstack([drawn, darkest_channel(drawn)])
    planes = cv2.GaussianBlur((planes + 1) * np.float32(127.5), (0, 0), scale)
    blotch = BLOTCH_PX * scale / 2
    small = cv2.resize(planes, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # opening takes fourteen times as long at full size
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(blotch) + 1,) * 2)
    matt = cv2.GaussianBlur(cv2.morphologyEx(small, cv2.MORPH_OPEN, disc), (0, 0), blotch / 2)
    matt = cv2.resize(matt, planes.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    above = (planes - matt).clip(0)
    light = (above[..., 3:] - LEAST).clip(0)
    return above * (light / np.maximum(above[..., 3:], LEAST))


def _spots(light: NDArray[np.float32], matt: NDArray[np.float32], scale: float, seed: int) -> NDArray[np.float32]:
    """(H, W) in 0..1: where glints cover the tissue, whose darkest channel is `matt`, so that they are together as bright as `light`."""
    noise = numpy_rng("glints", seed).standard_normal(light.shape, np.float32)
    fine, coarse = (cv2.GaussianBlur(noise, (0, 0), max(least, px * scale)) for px, least in zip(RELIEF_PX, (0.8, 1.6), strict=True))
    relief = (fine - coarse) / max(float((fine - coarse).std()), 1e-6)
    bright = light * np.exp(np.float32(RAGGED) * relief)
    lit = light > 0
    order = np.argsort(-bright[lit])
    lacking = np.clip(np.float32(min(WHITE)) - matt[lit][order], 20, None)  # what turns a matt pixel white
    last = int(np.searchsorted(np.cumsum(lacking), light.sum()))
    level = bright[lit][order][min(last, len(order) - 1)]
    twice = cv2.resize(bright, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) > level  # counted on a finer grid, or edges have steps
    return cv2.GaussianBlur(cv2.resize(twice.astype(np.float32), light.shape[::-1], interpolation=cv2.INTER_AREA), (0, 0), SOFT_PX)
