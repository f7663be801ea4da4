"""Lesions as peaks of a heat map with width and height beside them (CenterNet: Zhou et al. 2019, arXiv 1904.07850)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from polypforge.core.types import Box

LEAST_CONFIDENCE = 0.01
START = (-4.0, 0.4, 0.4)  # bias of the three outputs: few pixels are centres


def centre_targets(boxes: Sequence[Box], size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(heat (S, S), sides (2, S, S), centre (S, S)): a bump at each centre whose width follows the box; sides in shares of S."""
    heat, sides, centre = np.zeros((size, size), np.float32), np.zeros((2, size, size), np.float32), np.zeros((size, size), np.float32)
    rows, columns = np.mgrid[:size, :size]
    for x0, y0, x1, y1 in boxes:
        x, y = (x0 + x1 - 1) // 2, (y0 + y1 - 1) // 2
        bump = np.exp(-(((columns - x) / (0.12 * (x1 - x0))) ** 2 + ((rows - y) / (0.12 * (y1 - y0))) ** 2) / 2)
        heat = np.maximum(heat, bump.astype(np.float32))
        centre[y, x] = 1
        sides[:, y, x] = (x1 - x0) / size, (y1 - y0) / size
    return heat, sides, centre


def centre_loss(found: Tensor, heat: Tensor, sides: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """(penalty-reduced focal loss on the heat map with alpha 2 and beta 4, L1 on the sides at the centres), per centre.

    found: (B, 3, S, S) heat logit, width, height; heat and centre (B, 1, S, S); sides (B, 2, S, S).
    """
    logit, count = found[:, :1], centre.sum().clamp_min(1)
    sure = torch.sigmoid(logit)
    hit = centre * (1 - sure).square() * F.logsigmoid(logit)
    miss = (1 - centre) * (1 - heat) ** 4 * sure.square() * F.logsigmoid(-logit)
    return -(hit + miss).sum() / count, ((found[:, 1:] - sides).abs() * centre).sum() / count


def centre_peaks(found: Tensor, most: int) -> list[list[tuple[tuple[float, float, float, float], float]]]:
    """(B, 3, S, S) -> for each image up to `most` boxes (x0, y0, x1, y1) in its pixels with confidence, surest first."""
    size = found.shape[-1]
    heat = torch.sigmoid(found[:, :1])
    peaks = torch.where(heat == F.max_pool2d(heat, 7, 1, 3), heat, torch.zeros((), device=heat.device))
    values, places = peaks.flatten(1).topk(most)
    results = []
    for n in range(len(found)):
        boxes = []
        for value, place in zip(values[n].tolist(), places[n].tolist(), strict=True):
            y, x = divmod(place, size)
            w, h = (found[n, 1:, y, x].clamp(0, 1) * size).tolist()
            boxes.append(((x + 0.5 - w / 2, y + 0.5 - h / 2, x + 0.5 + w / 2, y + 0.5 + h / 2), value))
        results.append([b for b in boxes if b[1] > LEAST_CONFIDENCE])
    return results
