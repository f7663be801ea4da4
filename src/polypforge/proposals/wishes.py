"""What a plan should hold: from a wish in words, or a table, to a share for each kind of lesion."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from polypforge.core.errors import UserError
from polypforge.proposals.census import BINS, DIMENSION_OF, Cell, Lesion, classify

MORE = 3.0  # how much more weight "more X" gives to lesions that are X
FILLERS = {"and", "lesions", "lesion", "polyps", "polyp", "the", "data", "ones"}
GRAMMAR = "write 'match', 'balance size', 'more small flat', or name a CSV file"


@dataclass(frozen=True)
class Quota:
    """share: of the plan, 0..1. cell: what its lesions are; {} for any."""

    cell: Cell
    share: float

    def __str__(self) -> str:
        return " ".join(self.cell.values()) or "any"


def quotas(wish: str, lesions: Sequence[Lesion]) -> list[Quota]:
    """Shares that sum to 1. `lesions` are those of the data. Raises UserError for a wish that means nothing.

    match: as the data. balance D [D ...]: every bin, or combination of bins, equally often, whatever the data has. more B [B ...]: as the
    data, but lesions of these bins three times as often. A CSV file: a column for each dimension (empty: any), and `share` or `count`.
    """
    path = Path(wish)
    if path.suffix == ".csv":
        return _table(path)
    words = [w for w in re.split(r"[\s,]+", wish.strip().lower()) if w and w not in FILLERS]
    if words == ["match"]:
        return _match(lesions, {})
    if len(words) > 1 and words[0] == "balance":
        return _balance(words[1:])
    if len(words) > 1 and words[0] == "more":
        return _match(lesions, _cell(words[1:]))
    raise UserError(f"--want '{wish}' is not understood: {GRAMMAR}.")


def _balance(names: Sequence[str]) -> list[Quota]:
    unknown = [n for n in names if n not in BINS]
    if unknown:
        raise UserError(f"--want: '{unknown[0]}' can't be balanced: choose of {', '.join(BINS)}.")
    cells = [dict(zip(names, labels, strict=True)) for labels in product(*(BINS[n] for n in names))]
    return [Quota(cell, 1 / len(cells)) for cell in cells]


def _cell(labels: Sequence[str]) -> dict[str, str]:
    unknown = [label for label in labels if label not in DIMENSION_OF]
    if unknown:
        raise UserError(f"--want: there is no kind '{unknown[0]}': choose of {', '.join(DIMENSION_OF)}.")
    cell = {DIMENSION_OF[label]: label for label in labels}
    if len(cell) < len(set(labels)):
        raise UserError(f"--want: a lesion can't be {' and '.join(labels)} at once.")
    return cell


def _match(lesions: Sequence[Lesion], more: Cell) -> list[Quota]:
    counts = Counter(tuple(sorted(classify(lesion).items())) for lesion in lesions)
    weights = {cell: n * (MORE if more and set(more.items()) <= set(cell) else 1.0) for cell, n in sorted(counts.items())}
    if more and not any(set(more.items()) <= set(cell) for cell in counts):  # the data has none: as if it had had some
        weights[tuple(sorted(more.items()))] = MORE * max(1.0, 0.05 * len(lesions))
    total = sum(weights.values())
    return [Quota(dict(cell), w / total) for cell, w in weights.items()]


def _table(path: Path) -> list[Quota]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; --want takes a table of quotas, or: {GRAMMAR}.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table in UTF-8 ({error}): save it as CSV UTF-8.") from error
    amount = next((c for c in ("share", "count") if rows and c in rows[0]), None)
    if amount is None:
        raise UserError(f"{path} needs a header with the column `share` or `count`, and columns of {', '.join(BINS)}, and rows below it.")
    unknown = set(rows[0]) - set(BINS) - {amount}
    if unknown:
        raise UserError(f"{path}: there is no dimension '{sorted(map(str, unknown))[0]}': columns are {', '.join(BINS)} and {amount}.")
    found = []
    for number, row in enumerate(rows, 2):
        cell = {name: (row.get(name) or "").strip().lower() for name in BINS if (row.get(name) or "").strip()}
        for name, label in cell.items():
            if label not in BINS[name]:
                raise UserError(f"{path}, line {number}: {name} is '{label}', but must be one of {', '.join(BINS[name])}.")
        try:
            value = float(row[amount])
        except (TypeError, ValueError):
            value = -1.0
        if not 0 <= value < float("inf"):
            raise UserError(f"{path}, line {number}: {amount} is '{row[amount]}', but must be a number of at least 0.")
        found.append(Quota(cell, value))
    total = sum(q.share for q in found)
    if not total:
        raise UserError(f"{path} asks for nothing: every {amount} is 0.")
    return [Quota(q.cell, q.share / total) for q in found if q.share]


class Turns:
    """Which quota's turn it is. `turn(k)` for k = 0, 1, 2 ... keeps the bins of every dimension near their dues at any time, and with
    them, as far as numbers allow, the quotas themselves: of a hundred kinds no plan of fifty can hold each.
    """

    def __init__(self, wanted: Sequence[Quota]) -> None:
        self.wanted = list(wanted)
        self._own = np.array([q.share for q in self.wanted])
        labels = sorted({item for q in self.wanted for item in q.cell.items()})
        # (quotas, bins): which bins a quota counts for. A bin's due is the sum of its quotas' shares.
        self._of = np.array([[item in q.cell.items() for item in labels] for q in self.wanted], float).reshape(
            len(self.wanted), len(labels)
        )
        self._due = self._own @ self._of
        self._credit, self._bins = np.zeros(len(self.wanted)), np.zeros(len(labels))
        self._turns: list[int] = []

    def turn(self, index: int) -> Quota:
        """All quotas and bins gain their dues; the quota that is owed most, its bins counted in, has the turn, and all of them pay one."""
        while len(self._turns) <= index:
            self._credit += self._own
            self._bins += self._due
            owed = np.round(self._credit + self._of @ self._bins, 9)
            richest = int(owed.argmax())
            self._credit[richest] -= 1
            self._bins -= self._of[richest]
            self._turns.append(richest)
        return self.wanted[self._turns[index]]
