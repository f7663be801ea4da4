"""`polypforge gate`: judge a folder of generated cases."""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json, write_json, write_jsonl
from polypforge.core.images import write_png
from polypforge.core.intervals import wilson_interval
from polypforge.core.types import Case, Request
from polypforge.core.window import around_mask
from polypforge.data.folder import METADATA
from polypforge.generation.runner import LoadBackground
from polypforge.generation.writer import JUDGED, VERDICTS, CaseStore, read_requests
from polypforge.models.locate import set_offline
from polypforge.quality.gates import Subject, Verdict
from polypforge.quality.gates.settings import GateSettings, read_gates
from polypforge.quality.refinement import judged_chance, refined_label, soft_label
from polypforge.reporting.gate_figure import ScoreLine, gate_figure
from polypforge.workflows.cluster import on_cluster, refuse_engine
from polypforge.workflows.device import device_here
from polypforge.workflows.gating import BATCH, Gating, Look, Scored, gates_for
from polypforge.workflows.opened import Opened, keep_report, open_checked
from polypforge.workflows.realism import realism
from polypforge.workflows.run_folder import RUN_FILE

ALL = "all"


def gate_folder(
    folder: Path,
    *,
    data: Path | None = None,
    gates: str | Path = "starter",
    judges: Sequence[str] = (),
    detectors: Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    explain: Sequence[str] = (),
    refine: bool = False,
    soft_labels: bool = False,
    layout: str = "auto",
    skip_bad: bool = False,
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Verdicts for every finished case of `folder` into gate.jsonl; metadata.jsonl then lists the kept ones only.

    data: the real cases, for thresholds and comparison; by default those that `generate` worked on, when they are still there.
    explain: ids of cases to draw a figure of, or "all" rejected ones. refine, soft_labels: write masks moved to where all judges agree,
    and probabilities, beside the labels. Run again with other thresholds, it starts from all cases again: nothing is deleted, and scores
    that are known are not computed again. engine: "local", or "ray" for `workers` processes on a cluster; the scores are the same.
    Raises UserError.
    """
    refuse_engine(engine, workers)
    here = device_here(device, engine)
    if not (folder / "requests.jsonl").is_file():
        raise UserError(f"{folder} was not written by `polypforge generate`: it has no requests.jsonl.")
    set_offline(offline)
    settings = read_gates(gates, refine or soft_labels, judges=tuple(judges), detectors=tuple(detectors)).with_thresholds(thresholds or {})
    store = CaseStore(folder, shared=True)  # `generate` may be at work there
    done = store.done() - store.removed()  # whose files an audit has put aside
    requests = [r for r in read_requests(folder / "requests.jsonl") if r.id in done]
    if not requests:
        raise UserError(f"{folder} holds no finished case: run `polypforge generate` first.")
    unknown = set(explain) - {r.id for r in requests} - {ALL}
    if unknown:
        raise UserError(f"--explain {sorted(unknown)[0]}: {folder} has no such case; ids are in its gate.jsonl.")
    settings = gates_for((json.loads(store.row(r.id)["provenance"]).get("recipe", "") for r in requests), settings)
    gating = Gating(settings, here, offline)
    opened = _real_data(folder, data, layout, skip_bad)
    load = opened.loader() if opened else None
    calibration = gating.calibrate(opened, load, folder / "gates" / "real") if opened and load else None
    gating.warn_uncalibrated()
    log = gating.log(folder / "gates")
    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("judge", total=len(requests))
        judging = GateWorker, (gating.settings, gating.weights, opened, folder.resolve(), offline)
        spread = (lambda looks: on_cluster(*judging, looks, workers, device)) if engine == "ray" else None
        verdicts = gating.judge(requests, store, log, lambda n: bar.advance(task, n), spread)
    judged = {"models": gating.told_weights, "thresholds": {k: round(v, 4) for k, v in gating.keeper.thresholds.items()}}
    rows = [verdicts[r.id].to_json() for r in requests]
    write_json(folder / JUDGED, judged)
    write_jsonl(folder / VERDICTS, rows)
    kept = [r for r in requests if verdicts[r.id].kept]
    store.finish_judged(kept, judged, rows)
    labels = _labels(folder, kept, store, gating, refine, soft_labels)
    figures = _explain(folder, requests, verdicts, store, gating, load, explain)
    parents = {r.parent for r in requests}
    finals = [r for r in requests if r.id not in parents]
    passed = sum(verdicts[r.id].kept for r in finals)
    result: dict[str, Any] = {
        "judged": len(finals),
        "kept": passed,
        "interval": wilson_interval(passed, len(finals)),
        "reasons": dict(Counter(verdicts[r.id].reason for r in finals if not verdicts[r.id].kept).most_common()),
        "failed": dict(Counter(n for r in finals for n in verdicts[r.id].failed).most_common()),
        "thresholds": judged["thresholds"],
        "real": calibration.to_json() if calibration else None,
        "set": realism(finals, verdicts, store, opened, load, here),
        "metadata": str(folder / METADATA),
        **labels,
        **({"figures": figures} if explain else {}),
    }
    write_json(folder / "gates" / "summary.json", result)
    return result


class GateWorker:
    """A worker of a cluster: it keeps judges, and once they are asked for the real lesions, and scores one batch of cases after another."""

    def __init__(
        self, settings: GateSettings, weights: Mapping[str, str], opened: Opened | None, folder: Path, offline: bool, device: str
    ) -> None:
        where = f"the worker on {platform.node()}"
        if not (folder / "requests.jsonl").is_file():
            raise UserError(f"{where} doesn't see {folder}: put the cases on storage that all machines share.")
        set_offline(offline)
        self.gating, self.store = Gating(settings, device, offline), CaseStore(folder, shared=True)
        if self.gating.weights != weights:
            raise UserError(f"{where} finds other judges than this machine: put the same weights there, or on storage that all share.")
        if opened is not None:
            self.gating.compare_with(opened, opened.loader())

    def run(self, look: Look) -> list[Scored]:
        return self.gating.look(look, self.store)


def _real_data(folder: Path, data: Path | None, layout: str, skip_bad: bool) -> Opened | None:
    """The real cases: as asked for, or where `generate` found them. Its check is used again."""
    cache = folder / "check.json"
    if data is None:
        stored = read_json(folder / RUN_FILE).get("settings", {}) if (folder / RUN_FILE).exists() else {}
        data = Path(stored["data"]) if stored.get("data") else None
        if data is None or not data.is_dir():
            return None
        layout = stored.get("layout", layout)
        skip_bad = True  # what `generate` left out is left out here, too
    opened = open_checked(data, layout, skip_bad, cache=cache, min_cases=1)
    keep_report(opened, cache)
    return opened


def _labels(folder: Path, kept: Sequence[Request], store: CaseStore, gating: Gating, refine: bool, soft: bool) -> dict[str, Any]:
    """Write refined masks and soft labels of the kept cases; how many there are."""
    for old in ("refined", "soft"):  # of cases that passed an earlier list
        shutil.rmtree(folder / old, ignore_errors=True)
    if not (refine or soft):
        return {}
    parents = {r.parent for r in kept}
    kept = [r for r in kept if r.id not in parents]
    counts: dict[str, Any] = {}
    for start in range(0, len(kept), BATCH):
        part = kept[start : start + BATCH]
        subjects = [Subject.synthetic(store.load(r.id), r) for r in part]
        gating.keeper.see(subjects, {"judge"})
        for subject in subjects:
            moved = refined_label(subject) if refine else None
            if moved is not None:
                write_png(folder / "refined" / f"{subject.id}.png", moved)
                counts["refined"] = counts.get("refined", 0) + 1
            chance = soft_label(subject) if soft else None
            if chance is not None:
                write_png(folder / "soft" / f"{subject.id}.png", np.rint(chance * 255).astype(np.uint8))
                counts["soft"] = counts.get("soft", 0) + 1
    return {"labels": counts}


def _explain(
    folder: Path,
    requests: Sequence[Request],
    verdicts: Mapping[str, Verdict],
    store: CaseStore,
    gating: Gating,
    load: LoadBackground | None,
    explain: Sequence[str],
) -> list[str]:
    """Figures of the asked cases into gates/figures."""
    asked = [r for r in requests if r.id in explain or (ALL in explain and not verdicts[r.id].kept)]
    for request in asked:
        case, verdict = store.load(request.id), verdicts[request.id]
        subject = Subject.synthetic(case, request)
        gating.keeper.see([subject], {"judge"})
        lines = [
            ScoreLine(r.name, verdict.scores.get(r.name), gating.keeper.thresholds.get(r.name), r.gate.keep, r.name not in verdict.failed)
            for r in gating.settings.gates
        ]
        shown = subject.lesion if subject.lesion.any() else subject.region
        window = around_mask(shown, 2.0, 64)
        source = _source(request, store, load)
        label = case.mask if case.mask is not None else subject.lesion
        title = f"{request.id}: {verdict.reason or 'kept'}"
        picture = gate_figure(
            title, source.image if source else None, case.image, subject.region, label, window, judged_chance(subject), lines
        )
        write_png(folder / "gates" / "figures" / f"{request.id}.png", picture)
    return [str(folder / "gates" / "figures" / f"{r.id}.png") for r in asked]


def _source(request: Request, store: CaseStore, load: LoadBackground | None) -> Case | None:
    if request.parent:
        return store.load(request.parent)
    return load(request.background) if load and request.background else None
