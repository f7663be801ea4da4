"""`polypforge train`: a recipe, or the judge, on one or more data sets, in a run folder that the same command resumes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from polypforge.core.config import from_dict, override, read_yaml
from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json, whole_folder, write_json
from polypforge.core.images import write_png
from polypforge.core.seeding import content_hash
from polypforge.core.types import POLYP, Case, Request
from polypforge.data.prepared import Prepared
from polypforge.masks.shapes import box_mask, loosened
from polypforge.models.first_stage import FirstStage
from polypforge.models.locate import STARTER, is_local, locate, set_offline, weights_hash
from polypforge.models.trainable import Trainable
from polypforge.phantom.render import LEAST_PX, render
from polypforge.phantom.variety import VARIETIES
from polypforge.proposals.places import MARGIN, region_polygon
from polypforge.recipes import Job, Recipe, UntrainedRecipe
from polypforge.reporting.panels import edit_strip, sheet
from polypforge.training.checkpoint import Progress
from polypforge.training.config import TrainingConfig
from polypforge.training.loop import Trainer
from polypforge.training.private import PrivateTrainer, refuse_not_private
from polypforge.workflows.deidentify import without_text
from polypforge.workflows.device import device_of, tell_format
from polypforge.workflows.dry_run import plan, refuse_too_large, speed
from polypforge.workflows.opened import Opened, files_of, keep_report, open_folders
from polypforge.workflows.run_folder import FILES, claim, resumes, versions
from polypforge.workflows.trainables import build, shipped_config, trainable_class

PREVIEWS = 12


NAMED_MODELS = ("first_stage", "features", "perceptual", "semantics")  # keys that name other models, beside those that end in weights


@dataclass(frozen=True)
class PhantomMix:
    """frames: how many phantom frames join the training cases. size: their side in pixels. first_seed: of the first frame. variety: plain,
    or varied as the videos of several hospitals."""

    frames: int = 0
    size: int = 400
    first_seed: int = 0
    variety: str = "plain"

    def __post_init__(self) -> None:
        if self.variety not in VARIETIES:
            raise ValueError(f"variety is one of {', '.join(VARIETIES)}")
        if self.frames < 0 or self.size < LEAST_PX:
            raise ValueError(f"frames is not negative, and size at least {LEAST_PX}")


def read_settings(
    name: str, config: str | Path | None, assignments: Sequence[str], budget_seconds: float | None
) -> tuple[Path, dict[str, Any], TrainingConfig, PhantomMix]:
    """(the YAML, its values with the assignments, training and phantom sections). Raises UserError."""
    trainable_class(name)
    path = Path(config) if config else shipped_config(name)
    if config in ("starter", "paper"):
        path = shipped_config(name, str(config))
        if not path.is_file():
            raise UserError(f"{name} has no {config} configuration.")
    refuse_budget(name, budget_seconds)
    values = override(read_yaml(path), assignments)
    unknown = set(values) - {"model", "training", "phantom"}
    if unknown:
        raise UserError(f"{path}: sections are model, training and phantom, not {', '.join(sorted(unknown))}.")
    if budget_seconds is not None:
        values["training"] = dict(values.get("training") or {}) | {"budget_seconds": budget_seconds}
    training = from_dict(TrainingConfig, values.get("training") or {}, f"{path}: training")
    phantom = from_dict(PhantomMix, values.get("phantom") or {}, f"{path}: phantom")
    return path, values, training, phantom


def refuse_budget(name: str, budget_seconds: float | None) -> None:
    """Raises UserError for time to train what learns nothing by training."""
    if budget_seconds is not None and issubclass(trainable_class(name), UntrainedRecipe):
        raise UserError(f"{name} takes all it needs from the data at once and is not trained: leave --budget out.")


def train(
    name: str,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    config: str | Path | None = None,
    assignments: Sequence[str] = (),
    budget_seconds: float | None = None,
    device: str = "auto",
    layout: str = "auto",
    skip_bad: bool = False,
    offline: bool = False,
    leave_out: Sequence[str] = (),
    start: str | None = None,
) -> dict[str, Any]:
    """Train `name` on the data sets; returns the counters of the run. The same call resumes an interrupted run.

    config: YAML with the sections model, training and phantom, or "paper" or "starter" for a shipped one (default: starter).
    leave_out: names of training cases that are not learned from. start: weights to set out from (run, folder, hub id, starter:NAME), of
    the same class and shape. Raises UserError, and KeyboardInterrupt once a run that Ctrl-C stopped is saved.
    """
    out = Path(out)
    path, values, training, phantom = read_settings(name, config, assignments, budget_seconds)
    set_offline(offline)
    device = device_of(device)
    refuse_too_large(trainable_class(name), values.get("model") or {}, training, device, str(path))
    torch.manual_seed(training.seed)
    model = build(name, values.get("model") or {}, f"{path}: model")
    if start:
        set_out_from(model, start)
    named = [w for w in _weights_in(values.get("model") or {}) if is_local(w)]
    if training.privacy:
        loaded = named + ([start] if start and is_local(start) else [])
        own = [w for w in loaded if not w.startswith(STARTER)]
        if own:
            raise UserError(
                f"private training can't set out from {own[0]}: what those weights learned, perhaps from the same images, no noise hides. "
                f"The shipped weights ({STARTER}NAME) learned from public data."
            )
        refuse_not_private(model)
    if not data and not phantom.frames and not isinstance(model, UntrainedRecipe):
        raise UserError("there is nothing to learn from: give --data, or phantom.frames in the configuration.")
    main = int(os.environ.get("RANK", "0")) == 0  # `accelerate launch` numbers its processes so
    settings: dict[str, Any] = {
        "name": name,
        "data": [str(Path(d).resolve()) for d in data],
        "config": {k: v for k, v in values.items() if k != "training"},
    }
    # What may change between the parts of one run: its end, and what the advice after a NaN asks for.
    free = ("max_steps", "budget_seconds", "learning_rate", "precision")
    settings["training"] = {k: v for k, v in asdict(training).items() if k not in free}
    if leave_out:
        settings["leave_out"] = content_hash(sorted(leave_out))
    if start:
        settings["start"] = weights_hash(locate(start))
    if named:
        settings["weights"] = {name: weights_hash(locate(name)) for name in sorted(named)}
    settings |= {"layout": layout, "skip_bad": skip_bad, FILES: [files_of(Path(folder), layout) for folder in data]}
    going_on = main and resumes(out, f"train {name}", settings)
    folders = open_folders(data, out, layout, skip_bad, going_on)
    opened = [o for o, _ in folders]
    unwanted = set(leave_out)
    sources = {
        split: [c for o in opened for c in (o.to_learn(split, training.seed) if model.about_lesions else o.cases(split))]
        for split in ("train", "val")
    }
    if data and not sources["train"]:
        raise UserError(f"{', '.join(map(str, data))}: no case is left to learn from; all are held out (test.txt, or a split column).")
    if data and model.about_lesions and not phantom.frames and not any(c.lesion for c in sources["train"]):
        raise UserError(f"{', '.join(map(str, data))}: no training case shows a lesion for {name} to learn from: add labelled frames.")
    if main:
        claim(out, f"train {name}", settings)
        for checked, report in folders:
            keep_report(checked, report)
    train_cases = [c.load() for c in sources["train"] if c.name not in unwanted]
    held_cases = [c.load() for c in sources["val"]]
    variety = VARIETIES[phantom.variety]
    train_cases += [render(phantom.first_seed + i, phantom.size, variety=variety) for i in range(phantom.frames)]
    if not any(c.lesion for c in sources["val"]):  # frames without one say little of a model of lesions
        held_cases += [render(10**6 + i, phantom.size, variety=variety) for i in range(16)]
    console.print(
        f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
        f"{len(train_cases)} training{_of_them(phantom.frames)} and {len(held_cases)} validation cases, {_end(training)}."
    )
    if isinstance(model, Recipe | FirstStage):  # what a generator never sees it never writes
        train_cases, held_cases = (without_text(cases, out / "checks" / "text") for cases in (train_cases, held_cases))
    model.fit(train_cases)
    if not any(p.requires_grad for p in model.parameters()):
        return _without_training(name, model, out, data, opened, main)
    pool, held = model.prepare(train_cases), model.prepare(held_cases)
    if not len(pool):
        raise UserError(f"no case of the data can train {name}: it needs masks that show a lesion (not boxes) and sharp frames.")
    preview = _previewer(out, held, model) if isinstance(model, Recipe) else None
    if training.precision == "bf16":
        tell_format(device)
    kind = PrivateTrainer if training.privacy else Trainer
    trainer = kind(model, pool, held, out, training, preview=preview, device=device)
    progress = trainer.run()
    if not trainer.is_through:
        raise KeyboardInterrupt
    step_tflop = plan(trainable_class(name), values.get("model") or {}, training, f"{path}: model").step_tflop
    reached = speed(step_tflop, progress.step, progress.seconds, trainer.accelerator.device)
    result = {"name": name, "out": str(out), "model": str(out / "model"), "versions": versions(), **asdict(progress), **reached}
    result["best_loss"] = None if math.isinf(progress.best_loss) else progress.best_loss
    return _with_data(result, out, data, opened, main)


def _weights_in(section: Mapping[str, Any]) -> list[str]:
    """All that a model's configuration names as other models or their weights, at any depth."""
    found = [v for k, v in section.items() if (k.endswith("weights") or k in NAMED_MODELS) and isinstance(v, str)]
    return found + [w for v in section.values() if isinstance(v, Mapping) for w in _weights_in(v)]


def set_out_from(model: Trainable, start: str) -> None:
    """Give the model the weights that `start` names. Raises UserError when they are of another kind or shape, or damaged."""
    if isinstance(model, UntrainedRecipe):
        raise UserError(f"{model.name} learns nothing by gradients, so it can't set out from weights: leave --start out.")
    folder = locate(start)
    described = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if described.get(model.kind) != model.name:
        raise UserError(f"{start} holds no weights of {model.name}: training can set out from weights of the same kind only.")
    try:
        saved = type(model).load_pretrained(folder).state_dict()
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{start} is incomplete or damaged ({str(error).splitlines()[0]}): restore it or train again.") from error
    own = {k: v for k, v in model.state_dict().items() if k.startswith(model.optional)}
    try:
        model.load_state_dict(own | {k: v for k, v in saved.items() if k in own or not k.startswith(model.optional)})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{start} has another shape than the configuration asks for ({reason}): give the configuration it has.") from error


def _without_training(name: str, model: Trainable, out: Path, data, opened, main: bool) -> dict[str, Any]:
    """A model with nothing to learn by gradients is ready once it was fitted."""
    if main:
        with whole_folder(out / "model") as folder:
            model.save_pretrained(folder)
    result = {"name": name, "out": str(out), "model": str(out / "model"), "versions": versions(), **asdict(Progress(best_loss=0.0))}
    return _with_data(result, out, data, opened, main)


def _with_data(result: dict[str, Any], out: Path, data, opened: Sequence[Opened], main: bool) -> dict[str, Any]:
    result["data"] = {str(d): _left_out(o) for d, o in zip(data, opened, strict=True)}
    if main:
        write_json(out / "result.json", result)
    return result


def dry_run(
    name: str, config: str | Path | None = None, assignments: Sequence[str] = (), budget_seconds: float | None = None
) -> dict[str, Any]:
    """Parameters, memory, FLOP and hours of a training run, from its configuration alone."""
    path, values, training, _ = read_settings(name, config, assignments, budget_seconds)
    return plan(trainable_class(name), values.get("model") or {}, training, f"{path}: model").to_json()


def _left_out(opened: Opened) -> dict[str, Any]:
    return {
        "train": len(opened.cases("train")),
        "val": len(opened.cases("val")),
        "test": len(opened.cases("test")),
        "left out": opened.skipped,
    }


def _of_them(phantoms: int) -> str:
    return f" ({phantoms} of them phantoms)" if phantoms else ""


def _end(training: TrainingConfig) -> str:
    ends = []
    if training.max_steps:
        ends.append(f"{training.max_steps} steps")
    if training.budget_seconds:
        ends.append(f"{training.budget_seconds / 60:.1f} min of training")
    return " or ".join(ends) + "; Ctrl-C stops, the same command resumes"


def preview_jobs(held: Sequence[Prepared], recipe: Recipe, count: int = PREVIEWS) -> list[Job]:
    """Requests of the recipe's kind on the first validation cases that show a lesion, all but the class left to the model."""
    if "background" not in recipe.needs:
        cases = [p.case if "mask" in recipe.needs else None for p in held if p.case.mask is not None and p.case.mask.any()]
        return [Job(Request(c.name if c else "", POLYP, (), seed=i), c) for i, c in enumerate(cases[:count])]
    jobs: list[Job] = []
    for prepared in held:
        case = prepared.case
        several_boxes = case.mask is None and len(prepared.boxes) > 1  # one edit can't cover them all
        if prepared.boxes and not several_boxes and len(jobs) < count:
            lesion = box_mask(prepared.boxes[0], case.size)
            lesion = lesion & case.mask if case.mask is not None else lesion
            region = loosened(lesion, MARGIN) & prepared.field
            if region.sum() > 200 and (lesion & region).any():
                asked = region_polygon(lesion & region) if "mask" in recipe.needs and case.mask is not None else ()
                jobs.append(Job(Request(case.name, POLYP, region_polygon(region), seed=len(jobs), lesion=asked), case))
    return jobs


def preview_sheet(jobs: Sequence[Job], results: Sequence[Case], columns: int = 2):
    """Strips of source, region, result and label."""
    return sheet([edit_strip(job.request, job.case, result) for job, result in zip(jobs, results, strict=True)], columns)


def _previewer(out: Path, held: Sequence[Prepared], recipe: Recipe):
    jobs = preview_jobs(held, recipe)

    def preview(model: Trainable, step: int) -> None:
        if jobs and isinstance(model, Recipe):
            write_png(out / "previews" / f"step-{step:07d}.png", preview_sheet(jobs, model.generate(jobs)))

    return preview
