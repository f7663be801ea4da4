"""Every recipe at starter size, like with like: the same data, the same number of requests, the same judge, one machine.

    python benchmarks/recipes.py --data ../shared/data/kvasir-seg --out runs/recipes --budget 10m

Each recipe is trained for the budget, generates `--num` cases, and is judged; every stage is a process of its own, whose peak memory is
read when it ends. Prints a table in Markdown and writes `table.json`; the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from polypforge.core.files import read_jsonl, write_json
from polypforge.quality.agreement import bootstrap_interval, wilson_interval

RECIPES = (
    "polyp_gen", "cond_polyp_diff", "polyp_ddpm", "diffuse_gen", "diffaug", "control_inpaint", "blended_latent", "singan_seg", "copy_paste",
    "forge",
)  # fmt: skip


def run(arguments: list[str]) -> tuple[float, float]:
    """(seconds, peak memory in GB) of one polypforge command."""
    started = time.monotonic()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-m", "polypforge", *arguments], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"polypforge {' '.join(arguments)} failed")
    return time.monotonic() - started, usage.ru_maxrss / 1e6


def measure(name: str, data: Path, out: Path, budget: str, num: int) -> dict:
    """One row of the table."""
    row: dict = {"recipe": name}
    model = f"starter:{name}" if name == "forge" else str(out / name / "train")
    if name != "forge":
        train = ["train", name, "--data", str(data), "--out", model, "--set", "training.preview_every=0"]
        seconds, row["train_gb"] = run([*train, "--budget", budget] if name != "copy_paste" else train)
        result = json.loads((out / name / "train" / "result.json").read_text())
        row |= {"steps": result["step"], "train_images_per_s": result["samples"] / result["seconds"] if result["seconds"] else None}
    made = out / name / "made"
    for count in (1, num):  # the first case bears loading and planning, which are not sampling
        target = made if count == num else out / name / "warm-up"
        arguments = ["generate", "--model", model, "--data", str(data), "--num", str(count), "--out", str(target), "--seed", "1"]
        seconds, memory = run(arguments)
        row[f"seconds_{'all' if count == num else 'one'}"] = seconds
    row["sample_gb"] = memory
    row["sample_images_per_s"] = (num - 1) / max(1e-3, row["seconds_all"] - row["seconds_one"])
    run(["gate", str(made)])
    verdicts = [v for v in read_jsonl(made / "gate.jsonl") if v["id"] in _asked(made)]
    scores = [v["score"] or 0.0 for v in verdicts]
    kept = sum(v["kept"] for v in verdicts)
    row |= {"n": len(verdicts), "kept": kept, "kept_interval": wilson_interval(kept, len(verdicts))}
    row |= {"iou": float(np.mean(scores)), "iou_interval": bootstrap_interval(scores)}
    return row


def _asked(made: Path) -> set[str]:
    """Requests for a polyp that are nobody's parent."""
    rows = read_jsonl(made / "requests.jsonl")
    parents = {r["parent"] for r in rows}
    return {r["id"] for r in rows if r["label"] == "polyp" and r["id"] not in parents}


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
    stored = given.out / "table.json"
    rows = json.loads(stored.read_text()) if stored.exists() else []
    for name in given.recipes:
        if name not in {r["recipe"] for r in rows}:
            rows.append(measure(name, given.data, given.out, given.budget, given.num))
            write_json(stored, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
