"""`polypforge bench`: runs the contests one after the other and writes down who took how long."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import torch

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import read_json, write_json, write_text
from polypforge.models.locate import locate, public_name, set_offline, weights_hash
from polypforge.reporting.bench import growth_figure, markdown
from polypforge.workflows.bench.contest import Contest, Timed
from polypforge.workflows.bench.gating import gating
from polypforge.workflows.bench.growth import growth
from polypforge.workflows.bench.loading import loading
from polypforge.workflows.bench.measures import measures
from polypforge.workflows.bench.proposals import proposals
from polypforge.workflows.bench.sampling import sampling, sampling_ddpm, sampling_inpaint
from polypforge.workflows.bench.setting import Setting
from polypforge.workflows.bench.training import training, training_ddpm
from polypforge.workflows.cost import peak_memory_gb
from polypforge.workflows.device import device_of
from polypforge.workflows.dry_run import tflops_here
from polypforge.workflows.each import shown
from polypforge.workflows.generator import generator_source
from polypforge.workflows.run_folder import claim, versions

CONTESTS: dict[str, Callable[[Setting], Contest]] = {
    f.__name__: f for f in (sampling, sampling_ddpm, sampling_inpaint, training, training_ddpm, loading, gating, proposals, measures)
}
OPTIONAL = ("sampling_ddpm", "training_ddpm")  # need a library that nothing else here needs
GROWTH = "growth"
MACHINE = "machine.json"


def bench(
    out: Path,
    names: Sequence[str] = (),
    *,
    rounds: int = 5,
    side_px: int = 256,
    batch_size: int = 16,
    model: str = "starter:forge",
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Time the named contests, by default all, and write OUT/bench.md, bench.json and growth.png.

    rounds: how often each side runs, after one run that doesn't count; a ratio's interval is taken over rounds. The same call goes on with
    the contests that are missing. Raises UserError for an unknown name or too few rounds.
    """
    chosen = list(names) or [*CONTESTS, GROWTH]
    for name in chosen:
        if name not in CONTESTS and name != GROWTH:
            raise UserError(f"there is no contest '{name}': choose among {', '.join([*CONTESTS, GROWTH])}.")
    if rounds < 2 or batch_size < 1 or not 64 <= side_px <= 2048:
        raise UserError("a ratio's interval needs at least 2 rounds, a batch at least one image, and frames have 64 to 2048 pixels a side.")
    set_offline(offline)
    where = torch.device(device_of(device))
    if "sampling" in chosen or GROWTH in chosen:
        generator_source("forge", model)  # before anything is written
    settings = {
        "rounds": rounds, "side_px": side_px, "batch_size": batch_size, "model": public_name(model), "weights": weights_hash(locate(model)),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else str(where),
        "processor": platform.processor() or platform.machine(),
        "cores": joblib.cpu_count(), "threads": torch.get_num_threads(),
        "versions": versions(),
    }  # fmt: skip
    claim(out, "bench", settings)
    if not (out / MACHINE).exists():
        write_json(out / MACHINE, {"convolution_tflops": round(tflops_here(where), 3), "versions": versions()})
    console.print(f"{', '.join(chosen)}: about half a minute each and round of 5 on two cores. Ctrl-C stops; the same command resumes.")
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(Path(scratch), side_px, batch_size, model, where)
        for name in chosen:
            path = out / "contests" / f"{name}.json"
            if path.exists():
                continue
            started = time.monotonic()
            try:
                rows = list(growth(setting)) if name == GROWTH else _timed(CONTESTS[name](setting), rounds)
            except ImportError as error:
                if names or name not in OPTIONAL:
                    raise UserError(
                        f"the contest {name} needs '{error.name}': pip install 'polypforge[bench]', or leave the contest out."
                    ) from None
                console.print(f"Leaving out {name}: it needs '{error.name}', which isn't installed.")
                continue
            write_json(path, {"rows": rows, "peak_memory_gb": peak_memory_gb()})
            console.print(f"{name}: {time.monotonic() - started:.0f} s")
    return _written(out, settings)


def _timed(contest: Contest, rounds: int) -> list[dict[str, Any]]:
    timed = Timed(contest)
    for k in shown(contest.name, range(rounds + 1)):
        timed.round(counts=k > 0)
    return timed.rows()


def _written(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results of all contests that are there, as files and as what `bench` returns."""
    found = {p.stem: read_json(p) for p in sorted((out / "contests").glob("*.json"))}
    held = [f["peak_memory_gb"] for f in found.values()]
    result = {
        "rows": [row for name in CONTESTS if name in found for row in found[name]["rows"]],
        "growth": found[GROWTH]["rows"] if GROWTH in found else [],
        "settings": settings,
        **read_json(out / MACHINE),
        "peak_memory_gb": {where: max(h.get(where, 0.0) for h in held) for where in dict.fromkeys(w for h in held for w in h)},
        "out": str(out),
    }
    write_json(out / "bench.json", result)
    write_text(out / "bench.md", markdown(result))
    if result["growth"]:
        growth_figure(out / "growth.png", result["growth"])
    return result
