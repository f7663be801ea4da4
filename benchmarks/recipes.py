"""Every recipe at starter size, like with like: the same data, the same number of requests, the same judge, one machine.

    python benchmarks/recipes.py --data ../shared/data/kvasir-seg --out runs/recipes --budget 10m

Each recipe is trained for the budget, generates `--num` cases on training frames, and is judged; each stage is a process of its own,
whose peak memory is read when it ends. Prints a table in Markdown and writes `table.json`; the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from polypforge.core.files import write_json
from polypforge.core.images import write_png
from polypforge.models.locate import locate
from polypforge.proposals.plan import PlanConfig
from polypforge.quality.agreement import bootstrap_interval, wilson_interval
from polypforge.quality.gate import GateConfig, judge
from polypforge.quality.judges import load_judge
from polypforge.recipes import Job, Recipe
from polypforge.reporting.panels import edit_strip, sheet
from polypforge.workflows.opened import open_checked
from polypforge.workflows.plan import make_planner

BATCH = 8

RECIPES = (
    "polyp_gen", "cond_polyp_diff", "polyp_ddpm", "diffuse_gen", "diffaug", "control_inpaint", "blended_latent", "singan_seg", "copy_paste",
    "forge",
)  # fmt: skip


def run(arguments: list[str]) -> tuple[float, float]:
    """(seconds, peak memory in GB) of one Python process."""
    started = time.monotonic()
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return time.monotonic() - started, usage.ru_maxrss / 1e6


def measure(name: str, data: Path, out: Path, budget: str, num: int) -> dict:
    """One row of the table."""
    row: dict = {"recipe": name}
    model = f"starter:{name}" if name == "forge" else str(out / name / "train")
    if name != "forge":
        train = ["-m", "polypforge", "train", name, "--data", str(data), "--out", model, "--set", "training.preview_every=0"]
        _, row["train_gb"] = run([*train, "--budget", budget] if name != "copy_paste" else train)
        result = json.loads((out / name / "train" / "result.json").read_text())
        row |= {"steps": result["step"], "train_images_per_s": result["samples"] / result["seconds"] if result["seconds"] else None}
    found = out / name / "sampled.json"
    _, row["sample_gb"] = run([__file__, "--data", str(data), "--out", str(found), "--num", str(num), "--sample", model])
    return row | json.loads(found.read_text())


def sample(model: str, data: Path, out: Path, num: int) -> None:
    """Generate and judge `num` cases in this process: sampling rate after a warm-up batch, agreement of each label with the judge."""
    recipe, judge_model = Recipe.from_pretrained(model), load_judge(locate("starter:window_segmenter"))
    opened = open_checked(data, cache=out.parent.parent / "check.json")
    load = opened.loader()
    planner = make_planner(opened, load, 1, recipe, PlanConfig(replace=0.5, add=0.5, move=0.0))
    requests = [planner.requests(i)[-1] for i in range(num)]
    jobs = [Job(r, load(r.background) if r.background else None) for r in requests]
    recipe.generate(jobs[:BATCH])
    started = time.monotonic()
    made = [case for k in range(0, num, BATCH) for case in recipe.generate(jobs[k : k + BATCH])]
    seconds = time.monotonic() - started
    verdicts = judge(judge_model, made, requests, GateConfig())
    scores, kept = [v.score or 0.0 for v in verdicts], sum(v.kept for v in verdicts)
    row = {"sample_images_per_s": num / seconds, "n": num, "kept": kept, "kept_interval": wilson_interval(kept, num)}
    write_json(out, row | {"iou": float(np.mean(scores)), "iou_interval": bootstrap_interval(scores)})
    write_png(out.with_suffix(".png"), sheet([edit_strip(j.request, j.case, c, 150) for j, c in zip(jobs, made, strict=True)], 4))


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
    parser.add_argument("--sample", help=argparse.SUPPRESS)  # the process that generates and judges
    given = parser.parse_args()
    if given.sample:
        sample(given.sample, given.data, given.out, given.num)
        return
    stored = given.out / "table.json"
    rows = json.loads(stored.read_text()) if stored.exists() else []
    for name in given.recipes:
        if name not in {r["recipe"] for r in rows}:
            rows.append(measure(name, given.data, given.out, given.budget, given.num))
            write_json(stored, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
