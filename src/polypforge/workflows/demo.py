"""`polypforge demo`: the whole line on phantom data, offline."""

from __future__ import annotations

from pathlib import Path

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.data.folder import is_data_set, write_data_set
from polypforge.phantom.render import render
from polypforge.workflows.expand import ExpandResult, expand
from polypforge.workflows.run_folder import claim

FRAMES, SIZE_PX = 48, 384


def demo(out: Path, num: int = 24, seed: int = 0, device: str = "auto") -> ExpandResult:
    """Write a phantom data set to `out`/phantom and expand it to `out`/expanded; the same call again resumes."""
    if num < 1:
        raise UserError(f"--num is {num}: ask for at least one synthetic case.")
    claim(out, "demo", {"num": num, "seed": seed})
    data = out / "phantom"
    if not is_data_set(data):
        console.print(f"Rendering {FRAMES} phantom frames.")
        write_data_set(data, (render(seed * 1000 + 900_000 + i, SIZE_PX, overlay=i % 6 == 0) for i in range(FRAMES)))
    return expand(data, out / "expanded", num, seed=seed, device=device, offline=True)
