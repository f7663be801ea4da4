"""Fréchet and kernel distance of two folders, against torchmetrics with the same Inception network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PIL
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.models.inception import BasicConv2d

from polypforge.core.images import image_files, read_image, write_png
from polypforge.evaluation.images.frechet import frechet
from polypforge.evaluation.images.kernel import kid
from polypforge.features import load_encoder
from polypforge.features.inception import inception_network
from polypforge.phantom.render import render
from polypforge.workflows.bench.contest import Contest, Side
from polypforge.workflows.bench.setting import Setting
from polypforge.workflows.pictures import embed

CPU = torch.device("cpu")
BATCH, COUNT = 32, 50


def measures(setting: Setting) -> Contest:
    weights = random_inception(setting.scratch / "inception.pth")
    folders = picture_folders(setting.scratch, COUNT, setting.side_px)
    return Contest(
        "measures",
        f"a picture of {setting.side_px} px in two sets of {COUNT}, Inception v3",
        [
            Side("FID and KID", partial(fid_and_kid, folders, weights, setting.device), 2 * COUNT),
            Side("torchmetrics, FID alone", partial(by_torchmetrics, folders, weights, setting.device), 2 * COUNT),
        ],
        "the same network with random weights, at the cost of the published ones; distances cost less a picture in larger sets",
    )


def random_inception(path: Path) -> Path:
    """A file with random weights of FID's network."""
    torch.manual_seed(0)
    net = inception_network()
    for block in net.modules():
        if isinstance(block, BasicConv2d):
            nn.init.kaiming_normal_(block.conv.weight)
            block.bn.running_var.uniform_(0.5, 2)
    torch.save(net.state_dict(), path)
    return path


def picture_folders(root: Path, count: int, side_px: int) -> list[Path]:
    """Two folders of phantom frames, with and without polyps."""
    folders = [root / "pictures-a", root / "pictures-b"]
    for k, folder in enumerate(folders):
        for i in range(count):
            write_png(folder / f"{i}.png", render(10_000 * k + i, side_px, polyps=k).image)
    return folders


def fid_and_kid(folders: Sequence[Path], weights: Path, device: torch.device = CPU) -> dict[str, float]:
    encoder = load_encoder(f"fid_inception:{weights}").to(device)
    features = []
    for folder in folders:
        files = image_files(folder)
        parts = [embed(encoder, [read_image(f) for f in files[i : i + BATCH]], str(device)) for i in range(0, len(files), BATCH)]
        features.append(np.concatenate(parts))
    return {"fid": frechet(*features), "kid": kid(*features)}


def by_torchmetrics(folders: Sequence[Path], weights: Path, device: torch.device = CPU) -> dict[str, float]:
    metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights)).to(device)
    for real, folder in ((True, folders[0]), (False, folders[1])):
        files = image_files(folder)
        for i in range(0, len(files), BATCH):
            images = [np.array(PIL.open(f).convert("RGB")) for f in files[i : i + BATCH]]
            metric.update(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device), real=real)
    return {"fid": float(metric.compute())}
