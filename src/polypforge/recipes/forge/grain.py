"""The grain of the surroundings for what was drawn: a drawn lesion has less fine detail than the frame has pixels for.

The fine band of the tissue around the region gives its spectrum to a Gaussian texture ("random phase", Galerne, Gousseau and Morel 2011,
Random Phase Textures: Theory and Synthesis). So no structure of the frame is copied: not the old lesion, not its neighbours' highlights.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.images import darkest_channel
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Image, Mask
from polypforge.masks.shapes import dilate, erode
from polypforge.recipes.windows import View

REACH = 0.25  # of the window's side: so far around the region the tissue is looked at
EDGE_PX = 4  # so near to the end of the field of view an edge is the endoscope's
HIGHLIGHT = 200  # darkest channel of a wet highlight and its rim
OUTLIER = 3.0  # robust deviations; steeper detail is an edge, not grain
WIDEST = 0.0045  # of the frame's longer side: coarser than that is relief, which an even texture can't stand for
LEAST_PX = 500  # less tissue says nothing
SHADING = (0.3, 1.6)  # grain goes with light, within these limits


def with_grain(view: View, pixels: NDArray[np.float32], old: Mask | None, width: float, seed: int) -> NDArray[np.float32]:
    """`pixels` (H, W, 3) float32 in 0..255, with the detail that the region lacks against the tissue around it.

    old: the frame's lesions, whose texture is not that of the surroundings. width: scale up to which detail counts, as standard deviation
    in pixels of a window of 256. Nothing is added to a drawing that has as much on the whole, or when too little tissue can be seen.
    """
    sigma = max(1.0, min(width * view.window.side_px / 256, WIDEST * max(view.frame.shape)))
    reach = REACH * view.window.side_px
    around = view.around(reach + max(3 * sigma, EDGE_PX + 1))
    frame = view.frame[around]
    tissue = _tissue(view.region[around], frame, view.field[around], reach)
    if old is not None:
        tissue &= ~old[around]
    if tissue.sum() < LEAST_PX:
        return pixels
    part = view.around(3 * sigma)
    region, soft = view.region[part], pixels[part]
    real, lacking = [], []
    for seen, drawn in zip(_fine(frame.astype(np.float32), sigma), _fine(soft, sigma), strict=True):
        band = seen[tissue]
        limit = OUTLIER * 1.4826 * float(np.median(np.abs(band)))  # one outline is no grain
        real.append(seen.clip(-limit, limit) * tissue)
        share = float(drawn[region].clip(-limit, limit).var()) / max(float(band.clip(-limit, limit).var()), 1e-6)
        lacking.append(np.sqrt(max(0.0, 1 - share)))
    light = cv2.GaussianBlur(cv2.transform(soft, np.full((1, 3), 1 / 3, np.float32)), (0, 0), 3 * sigma)
    light = np.clip(light / max(1.0, float(frame[tissue].mean())), *SHADING)
    texture = _random_phase(np.stack(real), int(tissue.sum()), region.shape, seed)
    grained = pixels.copy()
    grained[part] += cv2.merge([plane * np.float32(much) * light for plane, much in zip(texture, lacking, strict=True)])
    return grained


def _tissue(region: Mask, frame: Image, field: Mask, reach: float) -> Mask:
    """What is seen near the region, without highlights and the edge of the field of view."""
    near = dilate(region, reach) & ~dilate(region, 2)
    shiny = dilate(darkest_channel(frame) > HIGHLIGHT, 2)
    return near & ~shiny & erode(field, EDGE_PX)


def _fine(image: NDArray[np.float32], sigma: float) -> Sequence[NDArray[np.float32]]:
    """Plane by plane, in which numpy is many times faster than along an axis of three."""
    return cv2.split(image - cv2.GaussianBlur(image, (0, 0), sigma))


def _random_phase(band: NDArray[np.float32], count: int, shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """Gaussian texture (3, *shape) with the spectrum, the deviation and the colours of `band` (3, H, W), which is 0 but in `count` pixels.
    A larger band is folded: grain knows nothing of what lies so far away."""
    size = cv2.getOptimalDFTSize(shape[0]), cv2.getOptimalDFTSize(shape[1])
    white = numpy_rng("grain", seed).standard_normal(size, np.float32)
    spectrum = np.fft.rfft2(_folded(band, size)) * (np.fft.rfft2(white) / np.float32(np.sqrt(count)))
    return np.fft.irfft2(spectrum, size).astype(np.float32)[:, : shape[0], : shape[1]]


def _folded(planes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(C, H, W) -> (C, *size): what lies beyond the edge comes in again at the other side and is added."""
    _, height, width = planes.shape
    rows, columns = (ceil(have / wanted) for have, wanted in zip((height, width), size, strict=True))
    whole = np.pad(planes, ((0, 0), (0, rows * size[0] - height), (0, columns * size[1] - width)))
    return whole.reshape(len(planes), rows, size[0], columns, size[1]).sum((1, 3))
