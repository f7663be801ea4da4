"""Latents that were computed once, by the content they belong to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

MAX_BYTES = 2 << 30


class LatentCache:
    """Keeps latents in half precision in CPU memory, the oldest giving way beyond `max_bytes`.

    What comes out is the same whether it was stored or has just been computed (both are rounded), so a resumed run equals an
    uninterrupted one.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.used = max_bytes, 0
        self._stored: OrderedDict[int, Tensor] = OrderedDict()

    def get(self, keys: Tensor, images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Latents of `images` (B, 3, H, W) with content keys (B,) int64; only unknown ones are encoded, in one batch."""
        wanted = keys.tolist()
        missing = [i for i, key in enumerate(wanted) if key not in self._stored]
        fresh: dict[int, Tensor] = {}
        if missing:
            found = encode(images[missing]).to("cpu", torch.float16)
            fresh = {wanted[i]: latent for i, latent in zip(missing, found, strict=True)}
        result = torch.stack([(fresh[key] if key in fresh else self._stored[key]).float() for key in wanted])
        for key, latent in fresh.items():
            self._stored[key] = latent.clone()
            self.used += latent.nbytes
        while self.used > self.max_bytes and self._stored:
            self.used -= self._stored.popitem(last=False)[1].nbytes
        return result.to(images.device)
