"""FID and KID of two folders: ours, torch-fidelity and torchmetrics with the same Inception weights, in one process.

python benchmarks/measures.py [--count 60] [--weights FILE.pth]

Without --weights the network is drawn at random, which costs the same and must give the same values. Needs torch-fidelity.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PIL
from torch import nn
from torch_fidelity import calculate_metrics
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.models.inception import BasicConv2d

from polypforge.core.images import image_files, read_image, write_png
from polypforge.evaluation.images.frechet import frechet
from polypforge.evaluation.images.kernel import kid
from polypforge.features import load_encoder
from polypforge.features.inception import inception_network
from polypforge.phantom.render import render
from polypforge.workflows.pictures import embed

BATCH = 32
SIDE_PX = 256


def random_weights(path: Path) -> Path:
    torch.manual_seed(0)
    net = inception_network()
    for block in net.modules():
        if isinstance(block, BasicConv2d):
            nn.init.kaiming_normal_(block.conv.weight)
            block.bn.running_var.uniform_(0.5, 2)
    torch.save(net.state_dict(), path)
    return path


def ours(folders: list[Path], weights: Path) -> dict[str, float]:
    encoder = load_encoder(f"fid_inception:{weights}")
    features = []
    for folder in folders:
        files = image_files(folder)
        parts = [embed(encoder, [read_image(f) for f in files[i : i + BATCH]], "cpu") for i in range(0, len(files), BATCH)]
        features.append(np.concatenate(parts))
    return {"fid": frechet(*features), "kid": kid(*features)}


def by_torch_fidelity(folders: list[Path], weights: Path) -> dict[str, float]:
    count = len(image_files(folders[0]))
    found = calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), fid=True, kid=True, kid_subsets=1, kid_subset_size=count, cuda=False, verbose=False,
        batch_size=BATCH, cache=False, feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    return {"fid": found["frechet_inception_distance"], "kid": found["kernel_inception_distance_mean"]}


def by_torchmetrics(folders: list[Path], weights: Path) -> dict[str, float]:
    metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights))
    for real, folder in ((True, folders[0]), (False, folders[1])):
        files = image_files(folder)
        for i in range(0, len(files), BATCH):
            images = [np.array(PIL.open(f).convert("RGB")) for f in files[i : i + BATCH]]
            metric.update(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), real=real)
    return {"fid": float(metric.compute())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="pictures in each folder")
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        weights = options.weights or random_weights(root / "weights.pth")
        folders = [root / "a", root / "b"]
        for k, folder in enumerate(folders):
            for i in range(options.count):
                write_png(folder / f"{i}.png", render(10_000 * k + i, SIDE_PX, polyps=k).image)
        seconds, values = {}, {}
        for method in (ours, by_torch_fidelity, by_torchmetrics):
            started = time.perf_counter()
            values[method.__name__] = method(folders, weights)
            seconds[method.__name__] = time.perf_counter() - started
        for name, found in values.items():
            shown = ", ".join(f"{k} {v:.6g}" for k, v in found.items())
            print(f"{name}: {seconds[name]:.1f} s, {seconds[name] / seconds['ours']:.2f} times ours; {shown}")


if __name__ == "__main__":
    main()
