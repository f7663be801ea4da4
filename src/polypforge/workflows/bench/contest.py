"""Two or more ways to do the same, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student


@dataclass(frozen=True)
class Side:
    """`run()` does `items` of what is compared. tflop: of one item, where it is known."""

    name: str
    run: Callable[[], Any]
    items: int
    tflop: float | None = None


@dataclass(frozen=True)
class Contest:
    """what: one item, as in "seconds for one ...". sides: ours first, then the alternatives. note: what the reader must know."""

    name: str
    what: str
    sides: Sequence[Side]
    note: str = ""


@dataclass
class Timed:
    """Seconds an item of each side, round by round."""

    contest: Contest
    seconds: list[list[float]] = field(default_factory=list)

    def round(self, counts: bool) -> None:
        """All sides once, one after the other, so that what slows the machine slows all. Warming up doesn't count."""
        spent = []
        for side in self.contest.sides:
            started = time.perf_counter()
            side.run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # or what is still running would be charged to the next side
            spent.append((time.perf_counter() - started) / side.items)
        if counts:
            self.seconds.append(spent)

    def rows(self) -> list[dict[str, Any]]:
        """A row a side: median seconds an item; how many times as long as ours it takes: the geometric mean over rounds, with its 95 %
        interval (Student's t of the logarithms)."""
        rows = []
        for k, side in enumerate(self.contest.sides):
            own = [r[k] for r in self.seconds]
            row: dict[str, Any] = {
                "contest": self.contest.name,
                "what": self.contest.what,
                "side": side.name,
                "seconds": float(np.median(own)),
            }
            if k:
                ratios = np.log([r[k] / r[0] for r in self.seconds])
                spread = float(student.ppf(0.975, len(own) - 1)) * np.std(ratios, ddof=1) / np.sqrt(len(own))
                row["ratio"] = float(np.exp(np.mean(ratios)))
                row["interval"] = [float(np.exp(np.mean(ratios) + side_of * spread)) for side_of in (-1, 1)]
            if side.tflop:
                row["tflops"] = side.tflop / row["seconds"]
            rows.append(row | {"rounds": len(own), "items": side.items, "note": self.contest.note})
        return rows
