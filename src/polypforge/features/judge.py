"""The encoder of a trained judge."""

from __future__ import annotations

from pathlib import Path

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from polypforge.core.files import read_json
from polypforge.features.base import Encoder, unit_grid


class JudgeEncoder(Encoder):
    """The encoder of a window segmenter, which was trained on frames in [-1, 1]. Patch features are of the third level (stride 8)."""

    patch_px = 8

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = read_json(folder / "config.json")["config"]
        self.size = config["window_px"]
        self.net = smp.encoders.get_encoder(config["encoder"], depth=config["depth"], weights=None)
        stored = load_file(folder / "model.safetensors")
        self.net.load_state_dict({k.removeprefix("encoder."): v.float() for k, v in stored.items() if k.startswith("encoder.")})

    def maps(self, image: Tensor) -> list[Tensor]:
        if image.shape[-1] != self.size:
            image = F.interpolate(image, (self.size, self.size), mode="bilinear", antialias=True)
        return list(self.net(image))[1:]

    def patches(self, image: Tensor) -> Tensor:
        return unit_grid(self.net(image)[3])
