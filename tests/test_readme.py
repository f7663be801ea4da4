"""Every command of the README runs, on a small phantom data set and with small numbers."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from polypforge.data.folder import write_data_set
from polypforge.phantom.render import render

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALL = {
    "--num 100": "--num 2",
    "--num 20": "--num 4",
    "--budget 15m": "--budget 4s",
    "num=100": "num=2",
    "--only gating": "--only gating --rounds 2",
}


SMALL_EXPERIMENT = [w for s in ("validation=2", "seeds=1", "training.max_steps=3", "training.batch_size=4") for w in ("--set", s)]
SMALL_SUPPLIES = [
    w for s in ("sizes=[6]", "draws=1", "supplies.forge.per_real=0.2", "supplies.copy_paste.per_real=0.2", "supplies.copy_paste.gates=none", "supplies.forge.gates=none")
    for w in ("--set", s)
]  # fmt: skip


def shrink(text: str) -> str:
    for large, small in SMALL.items():
        text = text.replace(large, small)
    return text


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return list(dict.fromkeys(line for block in blocks for line in block.strip().splitlines()))


@pytest.mark.slow
def test_every_command_and_the_python_example(tmp_path):
    write_data_set(tmp_path / "my-data", [render(7000 + i, 256, polyps=1 if i % 4 else 0) for i in range(16)])
    write_data_set(tmp_path / "other-hospital", [render(7900 + i, 192, polyps=1) for i in range(4)])
    seen = commands()
    assert len(seen) >= 9
    for command in seen:
        words = shlex.split(shrink(command))
        assert words[0] == "polypforge"
        extra = ["--set", "training.batch_size=4", "--set", "phantom.frames=4"] if words[1] == "train" and "--dry-run" not in words else []
        if words[1] == "downstream":
            extra = SMALL_EXPERIMENT + (SMALL_SUPPLIES if "fair" in words else [])
        done = subprocess.run([sys.executable, "-m", *words, *extra], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stderr[-1500:]}"
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", shrink(example)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-1500:]
    assert (tmp_path / "expanded" / "report.html").stat().st_size > 50_000


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_registry_host_is_named():
    for name in ("constraints.txt", "pyproject.toml", "Makefile", "README.md"):
        assert not re.search(r"https?://|--index-url|--find-links", (ROOT / name).read_text())
