"""The grain of the surroundings for what was drawn: a drawn lesion has less fine detail than the frame has pixels for.

The fine band of the tissue around the region gives its spectrum to a Gaussian texture ("random phase", Galerne, Gousseau and Morel 2011,
Random Phase Textures: Theory and Synthesis). So no structure of the frame is copied: not the old lesion, not its neighbours' highlights.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Mask
from polypforge.masks.shapes import bounding_box, dilate, erode
from polypforge.recipes.windows import View

REACH = 0.25  # of the window's side: so far around the region the tissue is looked at
EDGE_PX = 4  # so near to the end of the field of view an edge is the endoscope's
HIGHLIGHT = 200  # darkest channel of a wet highlight and its rim
OUTLIER = 3.0  # robust deviations; steeper detail is an edge, not grain
LEAST_PX = 500  # less tissue says nothing
SHADING = (0.3, 1.6)  # grain goes with light, within these limits


def with_grain(view: View, pixels: NDArray[np.float32], old: Mask | None, width: float, seed: int) -> NDArray[np.float32]:
    """`pixels` (H, W, 3) float32 in 0..255, with the detail that the region lacks against the tissue around it.

    old: the frame's lesions, whose texture is not that of the surroundings. width: scale up to which detail counts, as standard deviation
    in pixels of a window of 256. Nothing is added to a drawing that has as much on the whole, or when too little tissue can be seen.
    """
    sigma = max(1.0, width * view.window.side_px / 256)
    tissue = _tissue(view, old)
    if tissue.sum() < LEAST_PX:
        return pixels
    x0, y0, x1, y1 = bounding_box(dilate(tissue | view.region, 3 * sigma))
    part = np.s_[y0:y1, x0:x1]
    tissue, region = tissue[part], view.region[part]
    real, drawn = _fine(view.frame[part].astype(np.float32), sigma), _fine(pixels[part], sigma)
    limit = OUTLIER * 1.4826 * np.median(np.abs(real[tissue]), axis=0)
    real, drawn = np.clip(real, -limit, limit), np.clip(drawn, -limit, limit)  # one outline is no grain
    lacking = np.sqrt(np.clip(1 - drawn[region].var(axis=0) / np.maximum(real[tissue].var(axis=0), 1e-6), 0, 1))
    smooth = cv2.GaussianBlur(pixels[part], (0, 0), 3 * sigma).mean(-1, keepdims=True)
    light = np.clip(smooth / max(1.0, view.frame[part][tissue].mean()), *SHADING)
    grained = pixels.copy()
    grained[part] += _random_phase(real * tissue[..., None], int(tissue.sum()), seed) * lacking * light
    return grained


def _tissue(view: View, old: Mask | None) -> Mask:
    """What is seen near the region, without its lesions, highlights and the edge of the field of view."""
    near = dilate(view.region, REACH * view.window.side_px) & ~dilate(view.region, 2)
    shiny = dilate(view.frame.min(-1) > HIGHLIGHT, 2)
    tissue = near & ~shiny & erode(view.field, EDGE_PX)
    return tissue if old is None else tissue & ~old


def _fine(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return image - cv2.GaussianBlur(image, (0, 0), sigma)


def _random_phase(band: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """(H, W, 3) Gaussian texture with the spectrum, the deviation and the colours of `band`, which is 0 but in `count` pixels."""
    height, width = band.shape[:2]
    size = cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width)
    white = numpy_rng("grain", seed).standard_normal(size, np.float32)
    spectrum = np.fft.rfft2(band, size, axes=(0, 1)) * np.fft.rfft2(white)[..., None]
    return (np.fft.irfft2(spectrum, size, axes=(0, 1)) / np.sqrt(count))[:height, :width].astype(np.float32)
