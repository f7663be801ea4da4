"""`polypforge starter`: trains, measures and packs the weights that the package ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import whole_folder, write_json, write_text
from polypforge.core.images import write_png
from polypforge.core.intervals import bootstrap_interval, wilson_interval
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Case, Request
from polypforge.core.window import around_mask
from polypforge.evaluation.segmentation.network import LesionSegmenter
from polypforge.features.frame_encoder import FrameEncoder
from polypforge.masks.shapes import components, region_mask
from polypforge.models.first_stage import FirstStage
from polypforge.models.overlay_finder import OverlayFinder
from polypforge.proposals.census import measure_lesions
from polypforge.proposals.plan import PlanConfig, Planner
from polypforge.quality.gates import Subject, Verdict
from polypforge.quality.gates.gatekeeper import label_gates
from polypforge.quality.judges import agreement
from polypforge.quality.neighbours import descriptor, nearest
from polypforge.quality.segmenter import WindowSegmenter
from polypforge.recipes import Job, Recipe, load_recipe
from polypforge.recipes.copy_paste.paste import FIT, paste_lesion
from polypforge.reporting.panels import sheet, strip
from polypforge.workflows.distill import BUDGET_SECONDS as DISTILL_SECONDS
from polypforge.workflows.distill import distill
from polypforge.workflows.opened import Opened, open_checked
from polypforge.workflows.train import read_settings, train

SETS = ("kvasir-seg", "polypgen")
JUDGE, FORGE, FIRST_STAGE, ENCODER, FINDER = "window_segmenter", "forge", "first_stage", "encoder", "overlay_finder"
LEARNER = "lesion_segmenter"  # never sees real data
LEAP = "forge-leap"  # the generator with its few steps
TRAINED_AS = {ENCODER: FrameEncoder.name}  # where the shipped name isn't that of `polypforge train`


def build_starter(data: Path, out: Path, budget_share: float = 1.0, device: str = "auto") -> dict[str, Any]:
    """Train judge and generator on the training cases below `data`, measure them on the held-out ones, write starter/."""
    folders = [data / name for name in SETS]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; --data must hold {' and '.join(SETS)}.")
    if not 0 < budget_share < float("inf"):
        raise UserError(f"--budget-share is {budget_share:g}: give a positive number.")
    for name in (LEARNER, FINDER, FIRST_STAGE, ENCODER, JUDGE, FORGE):
        kind = TRAINED_AS.get(name, name)
        training = read_settings(kind, None, (), None)[2]
        budget = training.budget_seconds * budget_share if training.budget_seconds is not None else None
        steps = max(1, round(training.max_steps * budget_share)) if training.max_steps is not None else None
        data_of = () if name == LEARNER else folders
        ends = () if steps is None else (f"training.max_steps={steps}",)
        train(kind, data_of, out / name, assignments=ends, budget_seconds=budget, device=device)
    distill(folders, out / LEAP, model=str(out / FORGE), budget_seconds=DISTILL_SECONDS * budget_share, device=device)
    return pack_starter(folders, out, device)


def pack_starter(folders: list[Path], out: Path, device: str = "auto") -> dict[str, Any]:
    """Measure generator and judge of `out` on the held-out cases of `folders`; write all weights in half precision with their card."""
    target = out / "starter"
    trained = {name: out / name / "model" for name in (LEAP, JUDGE, FIRST_STAGE, ENCODER, FINDER, LEARNER)}
    with whole_folder(target / FORGE) as folder:
        load_recipe(trained[LEAP]).to(torch.bfloat16).save_pretrained(folder)
    with whole_folder(target / JUDGE) as folder:
        WindowSegmenter.load_pretrained(trained[JUDGE]).to(torch.float16).save_pretrained(folder)
    with whole_folder(target / FIRST_STAGE) as folder:
        FirstStage.load_pretrained(trained[FIRST_STAGE]).to(torch.float16).save_pretrained(folder)
    with whole_folder(target / ENCODER) as folder:
        FrameEncoder.load_pretrained(trained[ENCODER]).save_pretrained(folder)
    with whole_folder(target / FINDER) as folder:
        OverlayFinder.load_pretrained(trained[FINDER]).to(torch.float16).save_pretrained(folder)
    with whole_folder(target / LEARNER) as folder:
        LesionSegmenter.load_pretrained(trained[LEARNER]).to(torch.float16).save_pretrained(folder)
    recipe = load_recipe(target / FORGE).float()
    segmenter = WindowSegmenter.load_pretrained(target / JUDGE).eval()
    opened = [open_checked(f, cache=out / "checks" / f"{f.name}.json") for f in folders]
    figures = {o.source.path.name: measure(o, recipe, segmenter, out / "sheets") for o in opened}
    write_json(out / "figures.json", figures)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    write_text(target / "MODEL_CARD.md", model_card(figures, size, opened))
    return {"folder": str(target), "card": str(target / "MODEL_CARD.md"), "bytes": size, "figures": figures}


@dataclass
class Sample:
    """A generated case with its request, its background and the verdict on it."""

    request: Request
    background: Case
    case: Case
    verdict: Verdict


def measure(opened: Opened, recipe: Recipe, segmenter: WindowSegmenter, sheets: Path, count: int = 64) -> dict[str, Any]:
    """Figures on held-out frames: acceptance, the same for copy-paste, what share of real labels would pass, likeness to training cases."""
    held = [c.load() for c in opened.cases("test")]
    by_name = {c.name: c for c in held}
    training = opened.cases("train")
    picks = numpy_rng(0, "starter figures").permutation(len(training))
    donors = [c for c in (training[i].load() for i in picks[:200]) if c.mask is not None and c.mask.any()]
    references = [a for c in donors for a in measure_lesions(c)]
    planner = Planner(sorted(by_name), by_name.__getitem__, references, 0, PlanConfig(replace=0.5, add=0.5, move=0.0))
    requests = [r for i in range(count) for r in planner.requests(i)]
    console.print(f"{opened.source.path.name}: {len(requests)} samples on held-out frames.")
    made = _generate(recipe, requests, by_name)
    samples = _judged(segmenter, made, requests, by_name)
    pasted = [paste_lesion(Job(r, by_name[r.background]), donors[i % len(donors)], FIT) for i, r in enumerate(requests)]
    rivals = _judged(segmenter, pasted, requests, by_name)
    real = [c for c in held if c.mask is not None and c.mask.any()]
    scores = agreement(segmenter, [c.image for c in real], [c.mask for c in real if c.mask is not None])
    for name, rows in {"forge": samples, "copy-paste": rivals}.items():
        write_png(sheets / f"{opened.source.path.name}-{name}.png", _sheet(rows[:40]))
    return {
        "held-out frames": len(held),
        "forge": _acceptance(samples),
        "copy-paste": _acceptance(rivals),
        "real labels that would pass": _share([s >= 0.7 for s in scores]) | {"mean IoU": round(float(np.mean(scores)), 4)},
        "likeness to training lesions": _likeness(samples, real, donors),
    }


def _generate(recipe: Recipe, requests: list[Request], backgrounds: dict[str, Case]) -> list[Case]:
    made: list[Case] = []
    for start in range(0, len(requests), 8):
        made += recipe.generate([Job(r, backgrounds[r.background]) for r in requests[start : start + 8]])
    return made


def _judged(segmenter: WindowSegmenter, cases: list[Case], requests: list[Request], backgrounds: dict[str, Case]) -> list[Sample]:
    verdicts = label_gates(segmenter).verdicts([Subject.synthetic(c, r) for c, r in zip(cases, requests, strict=True)])
    return [Sample(r, backgrounds[r.background], c, v) for r, c, v in zip(requests, cases, verdicts, strict=True)]


def _share(hits: list[bool]) -> dict[str, Any]:
    low, high = wilson_interval(sum(hits), len(hits))
    return {"n": len(hits), "share": round(sum(hits) / max(1, len(hits)), 4), "interval": [round(low, 4), round(high, 4)]}


def _acceptance(samples: list[Sample]) -> dict[str, Any]:
    scores = [s.verdict.agreement or 0.0 for s in samples]
    low, high = bootstrap_interval(scores)
    return _share([s.verdict.kept for s in samples]) | {
        "mean IoU": round(float(np.mean(scores)), 4),
        "IoU interval": [round(low, 4), round(high, 4)],
    }


def _likeness(samples: list[Sample], real: list[Case], donors: list[Case]) -> dict[str, Any]:
    """Correlation with the most similar of the training lesions: synthetic ones, and held-out real ones for comparison."""
    bank = [descriptor(c.image, m) for c in donors if c.mask is not None for m in components(c.mask, 60)]
    drawn = [(s.case, Subject.synthetic(s.case, s.request).lesion) for s in samples if s.verdict.kept]
    synthetic = [n.correlation for n in nearest([descriptor(c.image, m) for c, m in drawn], bank)] if drawn else []
    unseen = [n.correlation for n in nearest([descriptor(c.image, components(c.mask)[0]) for c in real if c.mask is not None], bank)]

    def summary(values: list[float]) -> dict[str, float]:
        return (
            {
                "n": len(values),
                "median": round(float(np.median(values)), 3),
                "95 %": round(float(np.quantile(values, 0.95)), 3),
                "largest": round(max(values), 3),
            }
            if values
            else {"n": 0}
        )

    return {"training lesions": len(bank), "synthetic": summary(synthetic), "held-out real": summary(unseen)}


def _sheet(samples: list[Sample]):
    tiles = []
    for s in samples:
        region = region_mask(s.request.region, s.case.size)
        label = s.case.mask if s.case.mask is not None else region & False
        tile = strip(s.background.image, s.case.image, region, label, around_mask(region, 1.9, 72))
        tile[:5] = (70, 190, 90) if s.verdict.kept else (210, 60, 50)
        tiles.append(tile)
    return sheet(tiles, 2)


def model_card(figures: dict[str, Any], size: int, opened: list[Opened]) -> str:
    """MODEL_CARD.md."""
    rows = ["| held-out frames | what | accepted at IoU 0.7 (95 %) | mean IoU |", "| --- | --- | --- | --- |"]
    likeness = [
        "| held-out frames | synthetic to training: median, 95 %, largest | unseen real to training: median, 95 %, largest |",
        "| --- | --- | --- |",
    ]
    for name, f in figures.items():
        for kind in ("forge", "copy-paste", "real labels that would pass"):
            v = f[kind]
            rows.append(
                f"| {name} | {kind} (n={v['n']}) | {v['share']:.1%} ({v['interval'][0]:.1%}-{v['interval'][1]:.1%}) | {v['mean IoU']:.3f} |"
            )
        s, r = f["likeness to training lesions"]["synthetic"], f["likeness to training lesions"]["held-out real"]
        likeness.append(
            f"| {name} | {s.get('median')}, {s.get('95 %')}, {s.get('largest')} | {r.get('median')}, {r.get('95 %')}, {r.get('largest')} |"
        )
    used = "; ".join(
        f"{o.source.path.name}: {len(o.cases('train'))} train, {len(o.cases('val'))} val, {len(o.cases('test'))} held out" for o in opened
    )
    return CARD.format(size=size / 1e6, used=used, figures="\n".join(rows), likeness="\n".join(likeness))


CARD = """# Starter weights

`forge` (generator: image and mask of a lesion in a region of a frame), `window_segmenter` (the judge of labels), `encoder` (features of frames, learned without labels), `overlay_finder` (burnt-in text, learned from rendered text), `first_stage` (the f4 autoencoder that latent recipes of starter size
work in) and `lesion_segmenter` (where the segmenters of `downstream fair` set out from; learned from phantoms alone), {size:.1f} MB together, safetensors.

**Data.** {used} (cases in use after near-duplicates of held-out cases were left out), and phantom frames of this project. Kvasir-SEG (Jha et al., MMM 2020) and PolypGen
(Ali et al., Scientific Data 2023): research and education only, so the weights are too. Held-out: Kvasir-SEG's `test.txt` and PolypGen centre 5; no weight and no setting of
the models or the gate saw them. (Only the duplicate finder's match threshold was chosen on all of Kvasir-SEG, held-out frames included: it decides what is left out of training.)

**Training.** `polypforge starter --data DIR --out runs/starter` (or `make starter DATA=DIR`): `configs/first_stage/starter.yaml`, `configs/frame_encoder/starter.yaml`, `configs/overlay_finder/starter.yaml`, `configs/window_segmenter/starter.yaml`, `configs/lesion_segmenter/starter.yaml`, then `configs/forge/starter.yaml`, on 2 CPU cores. The averaged
weights of the last step are shipped, with one to four steps that `polypforge distill` taught them.

**Figures** on held-out frames: half of the requests repaint the frame's lesion with a new one, half add a second lesion. The judge was trained on other frames than these. Copy-paste is Poisson
blending of real training lesions into the same regions.

{figures}

**Memorisation.** Correlation of lesion windows (24x24, grey, any turn or mirror image; 1 is a copy) with the most similar training lesion. A generator that copies would exceed what unseen real lesions reach.

{likeness}

This is a first look, not a privacy guarantee: the weights were trained without differential privacy.

**Intended use.** Research on data expansion; the demo; a start for fine-tuning. Not for diagnosis, nor for any use on patients.
"""
