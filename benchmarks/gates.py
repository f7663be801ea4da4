"""Gates: how fast, and do they know a good label? An independent segmenter, of another architecture and trained on other cases, is asked.

    python benchmarks/gates.py MADE --judge RUN --independent RUN2 --data DATA

MADE: a folder of `generate`. --judge: the gates' judge; --independent: the other segmenter. Both must not have learned from DATA's held-out
cases, nor --independent from the frames that MADE repaints.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from polypforge.core.intervals import bootstrap_interval
from polypforge.core.types import POLYP, Case
from polypforge.generation.writer import CaseStore, read_requests
from polypforge.models.locate import locate
from polypforge.quality.gates import Gatekeeper, Subject
from polypforge.quality.gates.settings import read_gates
from polypforge.quality.judges import agreement, load_judge
from polypforge.workflows.gating import Gating
from polypforge.workflows.opened import open_checked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", type=Path)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--independent", required=True)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    settings = read_gates("starter", judges=(given.judge,))
    store = CaseStore(given.made)
    done = store.done()
    requests = [r for r in read_requests(given.made / "requests.jsonl") if r.id in done]
    opened = open_checked(given.data, skip_bad=True, cache=given.made / "check.json")
    load = opened.loader()
    gating = Gating(settings)
    calibration = gating.calibrate(opened, load, given.made / "gates" / "benchmark")
    log = gating.log(given.made / "gates" / "benchmark")
    verdicts = gating.judge(requests, store, log)
    other = load_judge(locate(given.independent))
    finals = [r for r in requests if r.label == POLYP and Subject.synthetic(store.load(r.id), r).lesion.any()]
    subjects = [Subject.synthetic(store.load(r.id), r) for r in finals]
    scores = agreement(other, [s.case.image for s in subjects], [s.case.mask & s.region for s in subjects])
    kept = np.array([verdicts[r.id].kept for r in finals])
    by_label = np.array(["label_agreement" not in verdicts[r.id].failed for r in finals])
    values = np.array(scores)
    print("| independent segmenter's IoU | n | mean (95 %) |\n| --- | --- | --- |")
    for name, chosen in (
        ("kept by all gates", kept),
        ("rejected", ~kept),
        ("kept by the label gate", by_label),
        ("rejected by it", ~by_label),
    ):
        if chosen.sum() > 1:
            low, high = bootstrap_interval(values[chosen].tolist())
            print(f"| {name} | {chosen.sum()} | {values[chosen].mean():.3f} ({low:.3f}-{high:.3f}) |")
    held = [c.load() for c in opened.cases("test")]
    held = [c for c in held if c.mask is not None and c.mask.any()]
    for name, judge in (("judge", load_judge(locate(given.judge))), ("independent", other)):
        real = agreement(judge, [c.image for c in held], [c.mask for c in held])
        print(f"| {name} on held-out real labels | {len(held)} | {np.mean(real):.3f} |")
    if calibration:
        print(f"Held-out real lesions that pass: {calibration.passed}/{calibration.n} {calibration.failed}")
    speed(gating.keeper, subjects)


def speed(keeper: Gatekeeper, subjects: list[Subject]) -> None:
    """All gates but `copied` on frames of 256x256."""
    small = []
    for s in subjects[:128]:
        masks = [cv2.resize(m.astype(np.uint8), (256, 256), interpolation=cv2.INTER_NEAREST) > 0 for m in (s.case.mask, s.region, s.lesion)]
        case = Case(s.id, cv2.resize(s.case.image, (256, 256), interpolation=cv2.INTER_AREA), masks[0])
        small.append((case, masks[1], masks[2]))
    names = [r.name for r in keeper.rules if r.gate.needs != "training"]
    fresh = lambda: [Subject(c.name, c, region, lesion) for c, region, lesion in small]  # noqa: E731
    keeper.scores(fresh()[:8], names)
    started = time.perf_counter()
    for start in range(0, len(small), 32):
        keeper.scores(fresh()[start : start + 32], names)
    spent = time.perf_counter() - started
    print(f"{len(names)} gates on {len(small)} frames of 256x256: {len(small) / spent:.1f} images/s")


if __name__ == "__main__":
    main()
