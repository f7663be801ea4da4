"""What the report of `expand` shows, gathered from the run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from polypforge.core.intervals import bootstrap_interval, wilson_interval
from polypforge.core.types import NORMAL, Attributes, Case, Image, Mask, Request
from polypforge.core.window import around_mask
from polypforge.data.split import components as scenes_of
from polypforge.generation.runner import LoadBackground
from polypforge.generation.writer import CaseStore
from polypforge.masks.shapes import bounding_box, components, region_mask
from polypforge.proposals.census import measure_lesions
from polypforge.quality.gates import Subject, Verdict
from polypforge.quality.neighbours import descriptor, nearest
from polypforge.reporting.charts import paired_histogram, place_map
from polypforge.reporting.page import Page, Picture, write_page
from polypforge.reporting.panels import data_uri, edit_strip
from polypforge.workflows.each import each
from polypforge.workflows.gating import Calibration
from polypforge.workflows.opened import Opened

SHOWN, SHOWN_REJECTED, SHOWN_NEIGHBOURS, COMPARED_REAL = 24, 6, 9, 250
COPY_CORRELATION = 0.95  # above it a synthetic lesion is named as a possible copy


def write_report(
    out: Path,
    opened: Opened,
    load: LoadBackground,
    store: CaseStore,
    made: list[Request],
    accepted: list[Request],
    verdicts: dict[str, Verdict],
    references: list[Attributes],
    calibration: Calibration | None,
    settings: dict[str, Any],
) -> Path:
    """Write `report.html` into `out` and return its path."""
    rejected = [r for r in made if not verdicts[r.id].kept]
    lesions = each("measuring lesions", lambda r: _Drawn(store.load(r.id), r), accepted)  # measurements only: the frames are let go
    pictures, top, text = _neighbours(opened, load, lesions, store)
    page = Page(
        title="PolypForge: expanded data set",
        lead=f"{len(accepted)} synthetic cases made from {_counted(opened)} of {opened.source.path.name}.",
        numbers=_numbers(made, accepted, verdicts, calibration),
        warnings=_warnings(opened, made, accepted, top, int(settings["num"])),
        accepted=[_picture(r, store.load(r.id), load, verdicts) for r in accepted[:SHOWN]],
        rejected=[_picture(r, store.load(r.id), load, verdicts) for r in rejected[:SHOWN_REJECTED]],
        reasons=_reasons(rejected, verdicts, len(made)),
        charts=_charts(references, lesions, opened, load),
        neighbours=pictures,
        neighbours_text=text,
        findings=[{"kind": k, "count": n} for k, n in opened.report.counts().items()],
        loading=LOADING.format(out=out.name),
        settings=[{"name": k, "value": str(v)} for k, v in settings.items()],
    )
    write_page(out / "report.html", page)
    return out / "report.html"


LOADING = """import datasets
cases = datasets.load_dataset("imagefolder", data_dir="{out}", split="train")
cases = cases.filter(lambda split: split == "train", input_columns="split")  # held-out cases are in the folder, too
print(cases[0]["image"], cases[0]["mask"], cases[0]["boxes"])

import polypforge
for case in polypforge.load_dataset("{out}"):
    if case.split == "train":
        case.image, case.mask, case.provenance.get("synthetic", False)"""


def _numbers(made, accepted, verdicts, calibration) -> list[dict[str, str]]:
    kept = sum(verdicts[r.id].kept for r in made)
    low, high = wilson_interval(kept, len(made))
    scores = [s for r in accepted if (s := verdicts[r.id].agreement) is not None]
    numbers = [
        {"value": str(len(accepted)), "name": "accepted synthetic cases"},
        {"value": f"{kept / max(1, len(made)):.0%}", "name": f"accepted of {len(made)} made (95 %: {low:.0%}-{high:.0%})"},
    ]
    if len(scores) > 1:
        low, high = bootstrap_interval(scores)
        numbers.append(
            {"value": f"{np.mean(scores):.2f}", "name": f"label agreement, IoU of accepted, n={len(scores)} (95 %: {low:.2f}-{high:.2f})"}
        )
    if calibration and calibration.n:
        (low, high), alone = calibration.interval, calibration.label_passed
        numbers.append(
            {
                "value": f"{calibration.passed / calibration.n:.0%}",
                "name": f"of held-out real lesions would pass all gates, n={calibration.n} (95 %: {low:.0%}-{high:.0%})"
                + ("" if alone is None else f"; the label gate alone: {alone / calibration.n:.0%}"),
            }
        )
    return numbers


def _counted(opened: Opened) -> str:
    lesions, frames = len(opened.lesions("train")), len(opened.cases("train"))
    return f"{frames} real ones" if lesions == frames else f"{lesions} real ones and {frames - lesions} frames without lesion"


def _warnings(opened: Opened, made, accepted, top: float, num: int) -> list[str]:
    texts = []
    if len(accepted) < num:
        texts.append(f"Only {len(accepted)} of {num} cases were reached in {len(made)} tries.")
    if top >= COPY_CORRELATION:
        texts.append(
            f"The closest synthetic lesion correlates {top:.2f} with a real one: look at the nearest neighbours before you share the set."
        )
    for reason, names in opened.skipped.items():
        texts.append(f"{len(names)} case(s) were left out ({reason}): {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}")
    if len(opened.lesions("train")) < 50:
        texts.append(
            f"Only {len(opened.lesions('train'))} real cases with a lesion: the synthetic ones can't show more variety than the shipped "
            "weights bring."
        )
    if not opened.lesions("val"):
        texts.append("No lesion was set aside to test the gates on: what share of real ones would pass them is not known.")
    return texts


def _picture(request: Request, case: Case, load: LoadBackground, verdicts: dict[str, Verdict]) -> Picture:
    source = load(request.background) if request.background else None
    region = region_mask(request.region, case.size)
    verdict = verdicts[request.id]
    score = f"IoU {verdict.agreement:.2f}" if verdict.agreement is not None else "not scored"
    edit = "added"
    if request.label == NORMAL:
        edit = "old lesion removed"
    elif not request.region:
        edit = "whole frame"
    elif request.parent:
        edit = "moved from its old place"
    elif source is not None and source.mask is not None and (source.mask & region).any():
        edit = "repainted"
    why = f" · rejected: {verdict.reason}" if not verdict.kept else ""
    return Picture(data_uri(edit_strip(request, source, case)), f"{request.id} · {edit} · {score}{why}")


def _reasons(rejected, verdicts, made: int) -> list[dict[str, Any]]:
    counts = Counter(verdicts[r.id].reason for r in rejected)
    return [{"reason": reason, "count": n, "share": f"{n / made:.0%}"} for reason, n in counts.most_common()]


class _Drawn:
    """What the report needs of an accepted case's new lesion, without its pixels."""

    def __init__(self, case: Case, request: Request) -> None:
        part = Subject.synthetic(case, request).lesion
        self.request = request
        self.attributes = [found.attributes for found in measure_lesions(Case(case.name, case.image, part))]
        self.centre = _centre(part)
        self.view = descriptor(case.image, part)

    def thumbnail(self, store: CaseStore) -> Image:
        case = store.load(self.request.id)
        return _closeup(case, Subject.synthetic(case, self.request).lesion)


def _closeup(case: Case, lesion: Mask) -> Image:
    return around_mask(lesion, 1.5, 32).crop(case.image, 160)


def _centre(mask: np.ndarray) -> tuple[float, float]:
    x0, y0, x1, y1 = bounding_box(mask)
    return (x0 + x1) / 2 / mask.shape[1], (y0 + y1) / 2 / mask.shape[0]


def _charts(references: list[Attributes], lesions: list[_Drawn], opened: Opened, load: LoadBackground) -> list[str]:
    synthetic = [a for drawn in lesions for a in drawn.attributes]
    ranges = {
        "size": ("size: sqrt(lesion area / field of view)", 0.0, 0.8),
        "elongation": ("elongation: minor / major axis", 0.2, 1.0),
        "solidity": ("solidity: area / convex hull", 0.6, 1.0),
        "delta_l": ("lighter than surroundings (CIELAB L)", -25.0, 25.0),
        "delta_a": ("redder than surroundings (CIELAB a)", -12.0, 20.0),
        "contrast": ("contrast inside (sd of L)", 2.0, 25.0),
    }
    charts = [
        paired_histogram(t, [getattr(a, k) for a in references], [getattr(a, k) for a in synthetic], lo, hi)
        for k, (t, lo, hi) in ranges.items()
    ]
    real = [load(c.name) for c in opened.lesions("train")[:60]]
    places = [_centre(c.mask) for c in real if c.mask is not None and c.mask.any()]
    made = [drawn.centre for drawn in lesions]
    return [*charts, place_map("where real lesions lie", places, "#7a8794"), place_map("where synthetic lesions lie", made, "#d9714e")]


def _neighbours(opened: Opened, load: LoadBackground, lesions: list[_Drawn], store: CaseStore) -> tuple[list[Picture], float, str]:
    """The accepted cases with the most similar real lesions, the highest correlation, and a sentence on what it means."""
    names: list[tuple[str, int]] = []
    bank: list[np.ndarray] = []
    for entry in opened.lesions("train"):
        if len(bank) >= COMPARED_REAL:
            break
        case = load(entry.name)
        for number, lesion in enumerate(components(case.mask, 60) if case.mask is not None else []):
            names.append((entry.name, number))
            bank.append(descriptor(case.image, lesion))
    if not bank or not lesions:
        return [], 0.0, "There was nothing to compare."
    found = nearest([drawn.view for drawn in lesions], bank)
    among_real = []
    scenes = {c.name: k for k, group in enumerate(scenes_of(opened.source.cases, opened.report.pairs)) for c in group}
    for i, view in enumerate(bank):  # not with lesions of its own scene: they are alike without being copies
        others = [other for (name, _), other in zip(names, bank, strict=True) if scenes[name] != scenes[names[i][0]]]
        if others:
            among_real.append(nearest([view], others)[0].correlation)
    order = sorted(range(len(found)), key=lambda i: -found[i].correlation)[:SHOWN_NEIGHBOURS]
    pictures = []
    for i in order:
        name, number = names[found[i].index]
        case = load(name)
        twin = _closeup(case, components(case.mask, 60)[number]) if case.mask is not None else case.image[:160, :160]
        gap = np.full((160, 3, 3), 255, np.uint8)
        caption = f"{lesions[i].request.id} (left) and real '{name}': correlation {found[i].correlation:.2f}"
        pictures.append(Picture(data_uri(cv2.hconcat([lesions[i].thumbnail(store), gap, twin])), caption))
    top = found[order[0]].correlation
    synthetic_level = float(np.quantile([f.correlation for f in found], 0.95))
    text = (
        f"The synthetic lesions that look most like one of {len(bank)} real ones (grey windows of "
        "24x24, any turn or mirror image; 1 is a copy). "
        "95th percentile: "
        f"{synthetic_level:.2f} for synthetic to real"
    )
    text += f", {np.quantile(among_real, 0.95):.2f} for real to other real lesions." if among_real else "."
    return pictures, top, text
