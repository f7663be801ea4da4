"""Scores on disk, so that gating again with other thresholds computes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from polypforge.core.errors import UserError
from polypforge.core.files import read_jsonl, whole_file, write_jsonl
from polypforge.quality.gates.verdict import Scores

FILE, VIEWS = "scores.jsonl", "views.npz"


class ScoreLog:
    """`scores.jsonl` (one case a line, a score for each gate under its stamp) and `views.npz` (how each lesion looks) in a folder.

    stamps: of each gate in use, a hash of its code and of the judges' weights; a score under another stamp is not used.
    """

    def __init__(self, folder: Path, stamps: Mapping[str, str]) -> None:
        self.folder = folder
        self._keys = {name: f"{name}@{stamp}" for name, stamp in stamps.items()}
        path = folder / FILE
        self._rows: dict[str, Scores] = {}
        self._views: dict[str, NDArray[np.float32]] = {}
        try:
            self._rows = {row["id"]: row["scores"] for row in (read_jsonl(path) if path.exists() else [])}
            if (folder / VIEWS).exists():
                with np.load(folder / VIEWS, allow_pickle=False) as stored:
                    self._views = dict(zip(json.loads(str(stored["ids"])), stored["views"].astype(np.float32), strict=True))
        except (UserError, KeyError, TypeError, ValueError, OSError, BadZipFile):  # only a memory of what can be computed again
            self._rows, self._views = {}, {}

    def missing(self, id: str) -> set[str]:
        """Names of the gates that have no score for the case yet."""
        row = self._rows.get(id, {})
        return {name for name, key in self._keys.items() if key not in row}

    def scores(self, id: str) -> Scores:
        row = self._rows.get(id, {})
        return {name: row[key] for name, key in self._keys.items() if key in row}

    def add(self, id: str, scores: Scores, view: NDArray[np.float32] | None = None) -> None:
        self._rows.setdefault(id, {}).update({self._keys[name]: value for name, value in scores.items()})
        if view is not None:
            self._views[id] = view

    def view(self, id: str) -> NDArray[np.float32] | None:
        return self._views.get(id)

    def save(self) -> None:
        """Views first: a case with scores has its view."""
        if self._views:
            with whole_file(self.folder / VIEWS) as path, path.open("wb") as file:
                views = np.stack(list(self._views.values())).astype(np.float16)
                np.savez(file, ids=np.array(json.dumps(list(self._views))), views=views)
        write_jsonl(self.folder / FILE, ({"id": id, "scores": row} for id, row in self._rows.items()))
