"""Every recipe at starter size, like with like: the same data, the same number of requests, the same judge, one machine.

    python benchmarks/recipes.py --data ../shared/data/kvasir-seg --out runs/recipes --budget 10m

Each recipe is trained for the budget, generates `--num` cases on training frames, and is judged; in a process of its own, so that
peak memory is its own (with the opened frames in it). Prints a table in Markdown; the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from polypforge.cli.options import duration
from polypforge.core.files import write_json
from polypforge.core.images import write_png
from polypforge.core.intervals import bootstrap_interval, wilson_interval
from polypforge.core.types import Case
from polypforge.data.prepared import prepare
from polypforge.evaluation.masks.similarity import mask_similarity
from polypforge.models.locate import locate
from polypforge.proposals.plan import PlanConfig
from polypforge.quality.gates import Subject
from polypforge.quality.gates.gatekeeper import label_gates
from polypforge.quality.judges import load_judge
from polypforge.recipes import Job, Recipe
from polypforge.reporting.panels import edit_strip, sheet
from polypforge.training.loop import Trainer
from polypforge.workflows.opened import Opened, open_checked
from polypforge.workflows.plan import make_planner
from polypforge.workflows.train import read_settings
from polypforge.workflows.trainables import build

BATCH = 8

RECIPES = (
    "polyp_gen", "cond_polyp_diff", "polyp_ddpm", "diffuse_gen", "diffaug", "control_inpaint", "blended_latent", "singan_seg", "copy_paste",
    "forge",
)  # fmt: skip


def measure(name: str, opened: Opened, cases: dict[str, list[Case]], load, out: Path, budget_seconds: float, num: int) -> dict:
    """Train, generate and judge one recipe; one row of the table."""
    row: dict = {"recipe": name}
    if name == "forge":
        recipe: Recipe = Recipe.from_pretrained("starter:forge")
    else:
        _, values, training, _ = read_settings(name, None, ["training.preview_every=0"], budget_seconds)
        torch.manual_seed(training.seed)
        model = build(name, values["model"], name)
        model.fit(cases["train"])
        if any(p.requires_grad for p in model.parameters()):
            trainer = Trainer(model, model.prepare(cases["train"]), model.prepare(cases["val"]), out / name, training)
            progress = trainer.run()
            row |= {"steps": progress.step, "train_images_per_s": progress.samples / progress.seconds}
        else:
            model.save_pretrained(out / name / "model")
        row["train_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        recipe = Recipe.from_pretrained(out / name)
    planner = make_planner(opened, load, 1, recipe, PlanConfig(replace=0.5, add=0.5, move=0.0))
    requests = [planner.requests(i)[-1] for i in range(num)]
    jobs = [Job(r, load(r.background) if r.background else None) for r in requests]
    recipe.generate(jobs[:BATCH])  # warm-up
    started = time.monotonic()
    made = [case for k in range(0, num, BATCH) for case in recipe.generate(jobs[k : k + BATCH])]
    row["sample_images_per_s"] = num / (time.monotonic() - started)
    row["sample_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    verdicts = label_gates(load_judge(locate("starter:window_segmenter"))).verdicts(
        [Subject.synthetic(c, r) for c, r in zip(made, requests, strict=True)]
    )
    scores, kept = [v.agreement or 0.0 for v in verdicts], sum(v.kept for v in verdicts)
    row |= {"n": num, "kept": kept, "kept_interval": wilson_interval(kept, num)}
    row |= {"iou": float(np.mean(scores)), "iou_interval": bootstrap_interval(scores)}
    if "background" not in recipe.needs:
        real = [c.mask for c in cases["train"] if c.mask is not None]
        drawn = [c.mask for c in made if c.mask is not None]
        row["sim"] = {m: mask_similarity(drawn, real, m) for m in ("pixels", "iou")}
    write_png(out / f"{name}.png", sheet([edit_strip(j.request, j.case, c, 150) for j, c in zip(jobs, made, strict=True)], 4))
    return row


def in_a_process_of_its_own(work: Callable[[], dict], out: Path) -> dict:
    """The row that `work` returns; a fork, so that the frames are opened once and memory is told apart."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            write_json(out, work())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{out.stem} failed")
    return json.loads(out.read_text())


def table(rows: list[dict]) -> str:
    lines = [
        "| recipe | training images/s | sampling images/s | memory, training / sampling | accepted (95 %), mean IoU of labels (95 %) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        low, high = r["kept_interval"]
        least, most = r["iou_interval"]
        training = f"{r['train_images_per_s']:.1f}" if r.get("train_images_per_s") else "none"
        memory = f"{r['train_gb']:.1f} / {r['sample_gb']:.1f} GB" if "train_gb" in r else f"- / {r['sample_gb']:.1f} GB"
        agreement = f"{r['kept']}/{r['n']} ({low:.0%}-{high:.0%}), {r['iou']:.2f} ({least:.2f}-{most:.2f})"
        lines.append(f"| {r['recipe']} | {training} | {r['sample_images_per_s']:.2f} | {memory} | {agreement} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--num", type=int, default=32)
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    given = parser.parse_args()
    cv2.setNumThreads(1)  # no threads may run before the forks
    opened = open_checked(given.data, cache=given.out / "check.json")
    cases = {split: [c.load() for c in opened.cases(split)] for split in ("train", "val")}
    for case in cases["train"] + cases["val"]:
        prepare(case)
    by_name = {c.name: c for c in cases["train"] + cases["val"]}
    rows = []
    for name in given.recipes:
        stored = given.out / f"{name}.json"
        budget = duration(given.budget) or 600.0
        rows.append(
            json.loads(stored.read_text())
            if stored.exists()
            else in_a_process_of_its_own(partial(measure, name, opened, cases, by_name.__getitem__, given.out, budget, given.num), stored)
        )
    print(table(rows))


if __name__ == "__main__":
    main()
