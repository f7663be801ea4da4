"""Shared fixtures: phantom cases, tiny real models, and the real data when it is there."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from polypforge.core.types import Case
from polypforge.data.folder import write_data_set
from polypforge.models.unet import UNetShape
from polypforge.phantom.render import render
from polypforge.quality.segmenter import SegmenterConfig, WindowSegmenter
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.recipe import Forge

# Threads of several test processes that wait for one core slow each other down manyfold: each gets its share, and so do its children.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = max(1, min(2, CORES // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
torch.set_num_threads(THREADS)
cv2.setNumThreads(THREADS)

TINY = ForgeConfig(
    base=UNetShape((32, 32), (False, True), patch_px=4, norm_groups=8),
    detail=UNetShape((32, 32), (False, False), patch_px=4, norm_groups=8),
    base_px=16, detail_px=64, detail_crop_px=32, base_steps=4,
)  # fmt: skip


@pytest.fixture(scope="session")
def phantoms() -> list[Case]:
    """Twelve phantom frames of 160 pixels, with and without polyps."""
    return [render(i, 160, polyps=i % 3) for i in range(12)]


@pytest.fixture(scope="session")
def polyps(phantoms) -> list[Case]:
    """Those that show a polyp of some size."""
    return [c for c in phantoms if c.mask is not None and c.mask.sum() > 200]


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory, phantoms) -> Path:
    folder = tmp_path_factory.mktemp("phantom-data")
    write_data_set(folder, phantoms)
    return folder


def wake(module: torch.nn.Module, seed: int = 0) -> None:
    """Give zero-initialised output layers random weights, so that an untrained network does something."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "conv_out" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def tiny_forge() -> Forge:
    torch.manual_seed(0)
    recipe = Forge(TINY)
    wake(recipe)
    return recipe.eval()


@pytest.fixture
def tiny_segmenter() -> WindowSegmenter:
    torch.manual_seed(0)
    return WindowSegmenter(SegmenterConfig(encoder="tu-resnet10t", depth=3, decoder=(32, 16, 8), window_px=64)).eval()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that POLYPFORGE_DATA names; tests that need it are skipped without it."""
    value = os.environ.get("POLYPFORGE_DATA")
    if not value or not Path(value, "kvasir-seg").is_dir():
        pytest.skip("POLYPFORGE_DATA names no folder with kvasir-seg/")
    return Path(value)
