"""Classifier-free guidance as a wrapper over any denoiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def guided(denoise: Callable[..., Tensor], scale: float, max_sigma: float = float("inf"), min_sigma: float = 0.0) -> Callable[..., Tensor]:
    """`cond` becomes a pair (asked, nothing asked), each a dictionary of tensors; both run as one batch.

    x0 = x0_null + scale (x0_asked - x0_null) (Ho & Salimans 2022), only while min_sigma <= sigma <= max_sigma
    (Kynkaanniemi et al. 2024); elsewhere, and at scale 1, the network runs once.
    """

    def denoise_pair(x: Tensor, sigma: Tensor, cond) -> Tensor:
        asked, null = cond
        if scale == 1.0 or not min_sigma <= float(sigma) <= max_sigma:
            return denoise(x, sigma, asked)
        both = {key: torch.cat([asked[key], null[key]]) for key in asked}
        with_request, without = denoise(torch.cat([x, x]), sigma, both).chunk(2)
        return without + scale * (with_request - without)

    return denoise_pair
