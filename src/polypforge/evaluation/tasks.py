"""What a downstream network can be trained for, by name."""

from __future__ import annotations

from types import ModuleType

from polypforge.evaluation.detection import task as detection
from polypforge.evaluation.segmentation import task as segmentation

TASKS: dict[str, ModuleType] = {task.NAME: task for task in (segmentation, detection)}


def task_of(name: str) -> ModuleType:
    """A module with NAME, MAIN (the figure that is compared), BESIDE (what is told beside it), Network, `score`, `statistic`,
    `witnesses`, `summary` and `beside`."""
    return TASKS[name]
