"""Gates on pixels: a seam around the edit, blur, noise, repeated texture, clipped or strange colour, a lesion that can't be seen.

None has a threshold of its own: what is usual depends on the endoscope, so thresholds come from the real lesions of the data set, each
measured as if it had just been drawn into a loose region.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.types import Mask
from polypforge.masks.shapes import erode, inner_distance
from polypforge.quality.gates.gate import register_gate
from polypforge.quality.gates.subject import Crop, Subject

LEAST_PX = 40  # fewer pixels than this say nothing
STEP_PX = 3  # colour steps are taken between this far inside and outside of the edit's edge
ARCS = 12  # parts of the edge among which the worst counts
LEAST_ARC = 8  # edge pixels without which a part says nothing
BORDER_PX = 6  # so near to the end of the field of view an edge is the endoscope's


@register_gate("seam_gradient", keep="at most", reason="an edge shows along the border of the edit")
def seam_gradient(subject: Subject) -> float | None:
    """log2 of the mean gradient on the edit's edge over that in the bands beside it (CIELAB, all channels)."""
    crop = _edited(subject)
    if crop is None:
        return None
    depth = inner_distance(crop.region) - inner_distance(~crop.region)
    usable = _tissue(crop)
    on = (np.abs(depth) <= 1.5) & usable
    beside = (np.abs(depth) > 3) & (np.abs(depth) <= 8) & usable
    if min(on.sum(), beside.sum()) < LEAST_PX:
        return None
    steep = _gradient(crop.lab)
    return float(np.log2((steep[on].mean() + 0.2) / (steep[beside].mean() + 0.2)))


@register_gate("seam_colour", keep="at most", reason="colour jumps at the border of the edit")
def seam_colour(subject: Subject) -> float | None:
    """Largest mean CIELAB distance between just inside and just outside of the edit's edge, over ARCS parts of the edge."""
    crop = _edited(subject)
    if crop is None:
        return None
    contours, _ = cv2.findContours(crop.region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    edge = max(contours, key=len)[:, 0].astype(np.float32)
    smooth = cv2.GaussianBlur(crop.lab, (0, 0), 1.2)
    depth = cv2.GaussianBlur((inner_distance(crop.region) - inner_distance(~crop.region)).astype(np.float32), (0, 0), 2.0)
    dy, dx = np.gradient(depth)
    x, y = edge.astype(int).T
    normal = np.stack([dx[y, x], dy[y, x]], 1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    inner, outer = edge + STEP_PX * normal, edge - STEP_PX * normal
    usable = _tissue(crop).astype(np.float32)[..., None]
    valid = (_sample(usable, inner)[:, 0] > 0.99) & (_sample(usable, outer)[:, 0] > 0.99)
    if valid.sum() < LEAST_PX:
        return None
    jumps = _sample(smooth, inner) - _sample(smooth, outer)
    arcs = [part[valid[part]] for part in np.array_split(np.arange(len(edge)), ARCS)]
    return max((float(np.linalg.norm(jumps[a].mean(0))) for a in arcs if len(a) >= LEAST_ARC), default=None)


@register_gate("sharpness", keep="at least", reason="the lesion is blurred against its surroundings")
def sharpness(subject: Subject) -> float | None:
    """log2 of fine detail inside the lesion over that around it."""
    return _detail_ratio(subject, fine=False)


@register_gate("noise", keep="at most", reason="the lesion is noisier than its surroundings")
def noise(subject: Subject) -> float | None:
    """log2 of pixel noise inside the lesion over that around it (Immerkaer 1996)."""
    return _detail_ratio(subject, fine=True)


@register_gate("repetition", keep="at most", reason="texture repeats itself inside the lesion")
def repetition(subject: Subject) -> float | None:
    """Highest normalised autocorrelation of the lesion's fine texture, away from zero shift."""
    crop = subject.crop
    if crop is None:
        return None
    inside = crop.lesion & crop.dull
    if inside.sum() < 20 * LEAST_PX:
        return None
    light = crop.lab[..., 0]
    texture = np.where(inside, light - cv2.GaussianBlur(light, (0, 0), 4.0), 0.0)
    texture -= np.where(inside, texture[inside].mean(), 0.0)
    shape = [int(n) for n in 2 * np.array(texture.shape)]
    spectrum, cover = np.fft.rfft2(texture, shape), np.fft.rfft2(inside.astype(float), shape)
    energy = np.fft.rfft2(texture**2, shape)
    product = np.fft.irfft2(np.abs(spectrum) ** 2, shape)
    pairs = np.fft.irfft2(np.abs(cover) ** 2, shape)
    one = np.fft.irfft2(energy * np.conj(cover), shape)
    other = np.fft.irfft2(np.conj(energy) * cover, shape)
    correlation = product / np.sqrt(np.maximum(one * other, 1e-9))
    rows, columns = np.fft.fftfreq(shape[0], 1 / shape[0]), np.fft.fftfreq(shape[1], 1 / shape[1])
    distance = np.hypot(rows[:, None], columns[None])
    known = (pairs > 0.35 * inside.sum()) & (distance > 8)
    return float(correlation[known].max()) if known.any() else None


@register_gate("clipping", keep="at most", reason="the lesion's colours are clipped")
def clipping(subject: Subject) -> float | None:
    """Share of the lesion that is black, or whose green or blue is at its upper end (red is, in many real frames)."""
    crop = subject.crop
    if crop is None:
        return None
    pixels = crop.image[crop.lesion]
    return float(((pixels[:, 1:] >= 254).any(1) | (pixels <= 1).all(1)).mean())


@register_gate("saturation", keep="at most", reason="the lesion's colour is stranger than that of real lesions")
def saturation(subject: Subject) -> float | None:
    """Distance of the lesion's mean colour from that around it, in CIELAB a and b."""
    crop = subject.crop
    if crop is None or crop.ring.sum() < LEAST_PX:
        return None
    return float(np.linalg.norm(crop.lab[crop.lesion][:, 1:].mean(0) - crop.lab[crop.ring][:, 1:].mean(0)))


@register_gate("visible", keep="at least", reason="the lesion can't be told from its surroundings")
def visible(subject: Subject) -> float | None:
    """How far lightness and colour differ between lesion and ring: symmetric Kullback-Leibler divergence of two Gaussians, square root."""
    crop = subject.crop
    if crop is None or min(crop.ring.sum(), crop.lesion.sum()) < LEAST_PX:
        return None
    smooth = cv2.GaussianBlur(crop.lab, (0, 0), 1.0)
    means, spreads = zip(*((smooth[m].mean(0), np.cov(smooth[m].T) + np.eye(3)) for m in (crop.lesion, crop.ring)), strict=True)
    gap = means[0] - means[1]
    inverse = [np.linalg.inv(s) for s in spreads]
    divergence = 0.5 * (np.trace(inverse[0] @ spreads[1] + inverse[1] @ spreads[0]) - 6) + 0.5 * gap @ (inverse[0] + inverse[1]) @ gap
    return float(np.sqrt(max(0.0, divergence)))


def _edited(subject: Subject) -> Crop | None:
    """The crop, when there is an edge of an edit in it."""
    return None if subject.removed else subject.edit_crop


def _detail_ratio(subject: Subject, fine: bool) -> float | None:
    crop = subject.crop
    if crop is None:
        return None
    light = crop.lab[..., 0]
    if fine:
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
        detail = np.abs(cv2.filter2D(light, -1, kernel))
    else:
        detail = np.abs(light - cv2.GaussianBlur(light, (0, 0), 2.0))
    inner = (inner_distance(crop.lesion) > 3) & crop.dull
    around = crop.ring & crop.dull
    if min(inner.sum(), around.sum()) < LEAST_PX:
        return None
    return float(np.log2((detail[inner].mean() + 0.1) / (detail[around].mean() + 0.1)))


def _gradient(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    along = [cv2.Sobel(lab, cv2.CV_32F, *axis, ksize=3) / 8 for axis in ((1, 0), (0, 1))]
    return np.sqrt(sum((a**2).sum(-1) for a in along))


def _tissue(crop: Crop) -> Mask:
    """Pixels well inside the field of view (and the crop) without wet highlights: elsewhere edges are no seams."""
    return erode(crop.field, BORDER_PX) & crop.dull


def _sample(array: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, channels) at (n, 2) x, y; 0 outside."""
    sampled = cv2.remap(array, points[:, 0:1], points[:, 1:2], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return sampled.reshape(len(points), -1)
