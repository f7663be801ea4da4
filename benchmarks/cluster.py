"""Ray: are two workers on two cores twice one worker on one core? The same requests, starting of the workers counted and not.

    python benchmarks/cluster.py --out runs/cluster --num 192

Frames are the phantom's. Needs two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import ray

from polypforge.data.folder import write_data_set
from polypforge.generation.writer import CaseStore
from polypforge.phantom.render import render
from polypforge.workflows.generate import generate_cases

FRAMES, FRAME_PX = 48, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=192)
    given = parser.parse_args()
    if given.out.exists():
        raise SystemExit(f"{given.out} exists: name a new folder, or nothing is made and nothing measured.")
    os.environ["OMP_NUM_THREADS"] = "1"
    data = given.out / "data"
    write_data_set(data, [render(4000 + i, FRAME_PX, polyps=i % 3) for i in range(FRAMES)])
    rates = {}
    cores = sorted(os.sched_getaffinity(0))
    for workers in (1, 2):
        os.sched_setaffinity(0, cores[:workers])  # for all that starts now: what writes files must not borrow the other core
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        out = given.out / f"workers-{workers}"
        started = time.time()
        made = generate_cases(data, out, num=given.num, steps=20, batch_size=4, engine="ray", workers=workers)["made"]
        spent = time.time() - started
        written = sorted(p.stat().st_mtime for p in (out / "rows").iterdir())
        first, last = len(written) // 4, len(written) * 17 // 20  # all workers are up, and none is idle yet
        rates[workers] = (last - first) / (written[last] - written[first])
        print(f"{workers} workers: {made} cases in {spent:.0f} s with all; {rates[workers]:.2f} a second when running", flush=True)
        assert len(CaseStore(out).done()) == made
        ray.shutdown()
    print(f"two workers are {rates[2] / rates[1]:.2f} times one")


if __name__ == "__main__":
    main()
