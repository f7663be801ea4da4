"""One training of a downstream plan, in a process of its own: learn, choose the checkpoint by validation, score the test cases."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch

from polypforge.core.config import from_dict
from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import write_json
from polypforge.core.seeding import numpy_rng, seed_from
from polypforge.core.types import NORMAL, Case
from polypforge.data.source import SourceCase
from polypforge.evaluation.mixture import Mix, Mixture
from polypforge.evaluation.plan import Cell
from polypforge.evaluation.tasks import task_of
from polypforge.models.locate import set_offline
from polypforge.training.config import TrainingConfig
from polypforge.training.loop import Trainer
from polypforge.workflows.export_cases import plain_name
from polypforge.workflows.run_folder import versions

KEPT_BYTES = 1 << 30  # of frames, in each process
NOT_OF_PLANS = {
    "seed": "seeds come from the draws",
    "privacy": "networks that are compared are trained without it",
    "validation_examples": "all of the plan's `validation` cases choose",
}


@dataclass(frozen=True)
class Job:
    """A cell with all that it needs; travels to the process that trains it. training: of TrainingConfig, and `epochs`. result: the file
    that it writes. labelled: the number of cases with a lesion behind the comparison; shown: how many of them are the first of `real`,
    beside frames without one, which are `normal_share` of what is shown at most."""

    cell: Cell
    result: Path
    task: str
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    augment: str
    mix: Mix
    real: tuple[SourceCase, ...]
    synthetic: tuple[SourceCase, ...]
    parents: tuple[str, ...]
    validation: tuple[SourceCase, ...]
    tests: Mapping[str, tuple[SourceCase, ...]]
    device: str
    labelled: int
    shown: int
    normal_share: float


_LOADED: dict[Path, Case] = {}  # of this process: the next cell asks for the same frames


def _load(source: SourceCase) -> Case:
    """The case; a frame without lesion has an empty mask, whether a file says so or not."""
    if source.image_path not in _LOADED:
        case = source.load()
        if case.mask is None and case.label == NORMAL and not case.boxes:
            case.mask = np.zeros(case.size, bool)
        if sum(c.image.nbytes for c in _LOADED.values()) + case.image.nbytes > KEPT_BYTES:
            _LOADED.clear()
        _LOADED[source.image_path] = case
    return _LOADED[source.image_path]


def settings(training: Mapping[str, Any], labelled: int, seed: int) -> TrainingConfig:
    """From the plan's section, where `epochs` of the labelled cases may stand for max_steps: so all arms take as many steps."""
    values = dict(training)
    for key, instead in NOT_OF_PLANS.items():
        if key in values:
            raise UserError(f"training: {key} is not for plans: {instead}.")
    epochs = values.pop("epochs", None)
    if values.get("max_steps"):
        epochs = None
    if epochs is not None and (not isinstance(epochs, int | float) or not 0 < epochs < math.inf):
        raise UserError(f"training: epochs must be a positive number, not {epochs!r}.")
    config = from_dict(TrainingConfig, values | {"seed": seed} | ({"max_steps": 1} if epochs else {}), "training")
    if not epochs:
        return config
    steps = max(1, math.ceil(epochs * labelled / (config.batch_size * config.accumulate)))
    return from_dict(TrainingConfig, values | {"seed": seed, "max_steps": steps}, "training")


def run(job: Job) -> Path:
    """Train and score, and write the result; nothing when it is there. Interrupted, it goes on from its last checkpoint."""
    if job.result.exists():
        return job.result
    if job.device.startswith("cuda"):
        torch.cuda.set_device(job.device)
    task, cell = task_of(job.task), job.cell
    network_config = from_dict(task.Network.config_class, job.network, f"networks: {cell.network}")
    seed = seed_from("downstream", cell.draw, cell.seed) % 2**31  # the same for all arms: they differ in their cases alone
    torch.manual_seed(seed)
    network = task.Network(network_config)
    real, synthetic = ([network.frame(_load(c)) for c in cases] for cases in (job.real, job.synthetic))
    index = {name: k for k, c in enumerate(job.real) for name in (c.name, plain_name(c.name))}
    children: dict[int, list[Any]] = {}
    for frame, parent in zip(synthetic, job.parents, strict=True):
        if parent in index:
            children.setdefault(index[parent], []).append(frame)
    if job.mix.mode in ("add", "replace") and job.mix.amount and not children:
        raise UserError(
            f"{cell.label}: no synthetic case says which of the {len(real)} real ones it was made from, so '{job.mix.mode}' has nothing to "
            "draw: use the mode pool or share."
        )
    wanted = job.mix.pooled(job.shown or len(synthetic))
    if job.mix.mode == "pool" and wanted < len(synthetic):
        order = numpy_rng("downstream synthetic", cell.draw, cell.seed).permutation(len(synthetic))
        synthetic = [synthetic[k] for k in sorted(order[:wanted])]
    pool = Mixture(real, synthetic, job.mix, children, job.augment, len(real) - job.shown, job.normal_share)
    held = Mixture([network.frame(_load(c)) for c in job.validation])
    config = replace(settings(job.training, job.labelled, seed), validation_examples=len(job.validation))
    folder = job.result.with_suffix("")
    trainer = Trainer(network, pool, held, folder, config, device=job.device)
    progress = trainer.run()
    if not trainer.is_through:
        raise KeyboardInterrupt
    best = task.Network.load_pretrained(folder / "best").to(job.device).eval()
    tests = {name: task.score(best, (_load(c) for c in cases)) for name, cases in job.tests.items()}
    counted = {
        "real": job.shown,
        "normal": len(real) - job.shown,
        "synthetic": pool.drawable(),
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
    }
    write_json(job.result, {"cell": asdict(cell), **counted, "validation": 1 - progress.best_loss, "tests": tests, "versions": versions()})
    shutil.rmtree(folder)  # its weights have said what they had to say
    return job.result


def quiet_worker(threads: int, offline: bool) -> None:
    """For a process of a pool: no bars, its share of the cores, no network when that was asked for, and an end when its parent ends, or
    two trainings would write to one folder once the same command resumes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_offline(offline)
    if offline:  # the variable alone says nothing to a library that is imported already
        os.environ["HF_HUB_OFFLINE"] = "1"
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    console.quiet = True
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import cv2

    cv2.setNumThreads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
