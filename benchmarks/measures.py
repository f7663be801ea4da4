"""FID and KID of two folders: ours, torch-fidelity and torchmetrics with the same Inception weights, in one process.

python benchmarks/measures.py [--count 60] [--weights FILE.pth]

Without --weights the network is drawn at random, which costs the same and must give the same values. Needs torch-fidelity.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from torch_fidelity import calculate_metrics

from polypforge.core.images import image_files
from polypforge.workflows.bench.measures import BATCH, by_torchmetrics, fid_and_kid, picture_folders, random_inception

SIDE_PX = 256


def by_torch_fidelity(folders: list[Path], weights: Path) -> dict[str, float]:
    count = len(image_files(folders[0]))
    found = calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), fid=True, kid=True, kid_subsets=1, kid_subset_size=count, cuda=False, verbose=False,
        batch_size=BATCH, cache=False, feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    return {"fid": found["frechet_inception_distance"], "kid": found["kernel_inception_distance_mean"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="pictures in each folder")
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        weights = options.weights or random_inception(root / "weights.pth")
        folders = picture_folders(root, options.count, SIDE_PX)
        seconds, values = {}, {}
        for method in (fid_and_kid, by_torch_fidelity, by_torchmetrics):
            started = time.perf_counter()
            values[method.__name__] = method(folders, weights)
            seconds[method.__name__] = time.perf_counter() - started
        for name, found in values.items():
            shown = ", ".join(f"{k} {v:.6g}" for k, v in found.items())
            print(f"{name}: {seconds[name]:.1f} s, {seconds[name] / seconds['fid_and_kid']:.2f} times ours; {shown}")


if __name__ == "__main__":
    main()
