"""The README's commands, on a small phantom data set and with small numbers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from polypforge.data.folder import write_data_set
from polypforge.phantom.render import render
from tests.command_line import polypforge

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SMALL = {
    "--num 100": "--num 2",
    "--num 20": "--num 4",
    "--budget 15m": "--budget 4s",
    "num=100": "num=2",
    "--only gating": "--only gating --rounds 2",
}
SMALL_TRAINING = [
    w for s in ("training.batch_size=4", "training.validation_examples=4", "training.preview_every=0", "phantom.frames=4")
    for w in ("--set", s)
]  # fmt: skip
SMALL_EXPERIMENT = [w for s in ("validation=2", "seeds=1", "training.max_steps=3", "training.batch_size=4") for w in ("--set", s)]
SMALL_SUPPLIES = [
    w for s in ("sizes=[6]", "draws=1", "supplies.forge.per_real=0.2", "supplies.copy_paste.per_real=0.2", "supplies.copy_paste.gates=none", "supplies.forge.gates=none")
    for w in ("--set", s)
]  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def write_inputs(folder: Path) -> None:
    """The data sets that the README takes for granted."""
    write_data_set(folder / "my-data", [render(7000 + i, 256, polyps=1 if i % 4 else 0) for i in range(16)])
    write_data_set(folder / "other-hospital", [render(7900 + i, 192, polyps=1) for i in range(4)])


def run_all(texts: Iterable[str], folder: Path) -> None:
    """Every command of the blocks once, in order, in `folder`; each must end well."""
    for command in dict.fromkeys(line for text in texts for line in text.strip().splitlines()):
        words = shlex.split(shrink(command))
        assert words[0] == "polypforge"
        extra = SMALL_TRAINING if words[1] == "train" and "--dry-run" not in words else []
        if words[1] == "downstream":
            extra = SMALL_EXPERIMENT + (SMALL_SUPPLIES if "fair" in words else [])
        assert polypforge(*words[1:], *extra, cwd=folder) == 0, command


def shrink(text: str) -> str:
    for large, small in SMALL.items():
        text = text.replace(large, small)
    return text
