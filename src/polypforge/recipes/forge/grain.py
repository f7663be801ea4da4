"""The grain of the surroundings for what was drawn: a drawn lesion has less fine detail than the frame has pixels for.

The fine band of the tissue around the region gives its spectrum to a Gaussian texture ("random phase", Galerne, Gousseau and Morel 2011,
Random Phase Textures: Theory and Synthesis). So no structure of the frame is copied: not the old lesion, not its neighbours' highlights.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Image, Mask
from polypforge.masks.shapes import dilate, erode
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
    reach = REACH * view.window.side_px
    part = view.around(reach + max(3 * sigma, EDGE_PX + 1))
    region, frame = view.region[part], view.frame[part]
    tissue = _tissue(region, frame, view.field[part], reach)
    if old is not None:
        tissue &= ~old[part]
    if tissue.sum() < LEAST_PX:
        return pixels
    real, drawn = _fine(frame.astype(np.float32), sigma), _fine(pixels[part], sigma)
    limit = OUTLIER * 1.4826 * np.median(np.abs(real[tissue]), axis=0)
    real, drawn = np.clip(real, -limit, limit), np.clip(drawn, -limit, limit)  # one outline is no grain
    lacking = np.sqrt(np.clip(1 - drawn[region].var(axis=0) / np.maximum(real[tissue].var(axis=0), 1e-6), 0, 1))
    light = cv2.GaussianBlur(pixels[part].mean(-1), (0, 0), 3 * sigma)
    light = np.clip(light / max(1.0, float(frame[tissue].mean())), *SHADING)
    grained = pixels.copy()
    grained[part] += _random_phase(real * tissue[..., None], int(tissue.sum()), seed) * lacking * light[..., None]
    return grained


def _tissue(region: Mask, frame: Image, field: Mask, reach: float) -> Mask:
    """What is seen near the region, without highlights and the edge of the field of view."""
    near = dilate(region, reach) & ~dilate(region, 2)
    shiny = dilate((frame > HIGHLIGHT).all(-1), 2)
    return near & ~shiny & erode(field, EDGE_PX)


def _fine(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return image - cv2.GaussianBlur(image, (0, 0), sigma)


def _random_phase(band: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """(H, W, 3) Gaussian texture with the spectrum, the deviation and the colours of `band`, which is 0 but in `count` pixels."""
    height, width = band.shape[:2]
    size = cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width)
    white = numpy_rng("grain", seed).standard_normal(size, np.float32)
    spectrum = np.fft.rfft2(np.ascontiguousarray(band.transpose(2, 0, 1)), size) * (np.fft.rfft2(white) / np.float32(np.sqrt(count)))
    return np.fft.irfft2(spectrum, size).astype(np.float32)[:, :height, :width].transpose(1, 2, 0)
