"""A smooth guess at unknown pixels from known ones: where a network starts from, so that it need only learn the difference."""

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth_fill(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels by pull-push (Gortler et al. 1996, section 3.4): known averages from ever coarser grids.

    image (B, C, S, S), known (B, 1, S, S) in {0, 1}; S is a power of two times an odd number. Known pixels come back
    unchanged; with nothing known the result is 0.
    """
    weighted, weight = image * known, known
    levels = [(weighted, weight)]
    while weight.shape[-1] % 2 == 0 and weight.shape[-1] > 1:
        weighted, weight = F.avg_pool2d(weighted, 2), F.avg_pool2d(weight, 2)
        levels.append((weighted, weight))
    mean = weighted.mean((-2, -1), keepdim=True) / weight.mean((-2, -1), keepdim=True).clamp_min(1e-6)
    filled = torch.where(weight > 0, weighted / weight.clamp_min(1e-6), mean)
    for weighted, weight in reversed(levels[:-1]):
        coarse = F.interpolate(filled, scale_factor=2.0, mode="bilinear", align_corners=False)
        sure = weight.clamp(0, 1)
        filled = weighted + (1 - sure) * coarse
    return filled
