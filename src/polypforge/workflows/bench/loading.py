"""Training examples from files: frames measured and decoded once, against a data loader that decodes for each example."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PIL
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from polypforge.recipes.polyp_ddpm.recipe import PolypDDPM, PolypDDPMConfig
from polypforge.workflows.bench.contest import Contest, Side
from polypforge.workflows.bench.setting import Setting

BATCH = 16
SIZE_PX = 256


def loading(setting: Setting) -> Contest:
    with torch.device("meta"):  # its examples, without its weights
        recipe = PolypDDPM(PolypDDPMConfig(size_px=SIZE_PX))
    cases = setting.source.cases
    pool, rng = recipe.prepare([c.load() for c in cases]), np.random.default_rng(0)
    loader = DataLoader(_Pairs([(c.image_path, c.mask_paths[0]) for c in cases]), BATCH, shuffle=True, drop_last=True)
    batches = len(cases) // BATCH
    return Contest(
        "loading",
        f"an example of {SIZE_PX} px, image and mask, turned, mirrored and cropped",
        [
            Side("decoded once, one warp", lambda: [recipe.training_batch(pool, BATCH, rng) for _ in range(batches)], BATCH * batches),
            Side("torch DataLoader, Pillow and torchvision transforms", lambda: list(islice(loader, batches)), BATCH * batches),
        ],
        "both in one process on the CPU, without workers",
    )


class _Pairs(Dataset):
    """As segmentation tutorials have it."""

    def __init__(self, files: list[tuple[Path, Path]]) -> None:
        self.files = files
        mirror = v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()
        crop = v2.RandomResizedCrop(SIZE_PX, (0.75, 1.0), antialias=True)
        self.change = v2.Compose([v2.RandomRotation(20), *mirror, crop, v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = (PIL.open(f) for f in self.files[index])
        return self.change(tv_tensors.Image(image.convert("RGB")), tv_tensors.Mask(mask.convert("L")))
