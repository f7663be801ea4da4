"""Synthetic cases on their way to disk: each appears whole, once, and is found again after an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polypforge.core.errors import UserError
from polypforge.core.files import read_json, read_jsonl, write_json, write_jsonl
from polypforge.core.images import MAX_SIDE_PX, read_image, read_mask
from polypforge.core.types import Case, Request
from polypforge.data.folder import METADATA, REMOVED, write_case
from polypforge.masks.attributes import to_vector

VERDICTS = "gate.jsonl"  # a row for each case that a gate judged
JUDGED = "gates/judged.json"  # its models and thresholds


class CaseStore:
    """A folder of generated cases. A case counts as done when its row in `rows/` exists, which is written last.

    shared: others write to it at this moment; otherwise what an interrupted run left unfinished is cleared away.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        self.folder = folder
        for torn in folder.rglob(".partial-*") if folder.exists() and not shared else ():
            torn.unlink(missing_ok=True)

    def done(self) -> set[str]:
        """Ids of the requests that are finished."""
        return {p.stem for p in (self.folder / "rows").glob("*.json")}

    def is_done(self, request_id: str) -> bool:
        return (self.folder / "rows" / f"{request_id}.json").is_file()

    def removed(self) -> set[str]:
        """Ids of cases that an audit took out as copies."""
        return removed_ids(self.folder)

    def write(self, case: Case, request: Request, intermediate: bool) -> None:
        row = write_case(self.folder, case)
        write_json(self.folder / "rows" / f"{request.id}.json", row | {"intermediate": intermediate})

    def row(self, request_id: str) -> dict[str, Any]:
        return read_json(self.folder / "rows" / f"{request_id}.json")

    def load(self, request_id: str) -> Case:
        row = self.row(request_id)
        mask = row["mask_file_name"]
        return Case(
            name=request_id,
            image=read_image(self.folder / row["image_file_name"]),
            mask=read_mask(self.folder / mask) if mask else None,
            boxes=tuple(tuple(b) for b in row["boxes"]),
            label=row["label"],
            group=row["group"],
            split=row["split"],
            provenance=json.loads(row["provenance"]),
        )

    def finish_judged(self, kept: Iterable[Request], judged: dict[str, Any], verdicts: Iterable[dict[str, Any]]) -> int:
        """`finish` with what a gate said. judged: its models and thresholds; verdicts: rows of VERDICTS."""
        return self.finish(kept, {row["id"]: judged | {"scores": row["scores"]} for row in verdicts})

    def finish(self, requests: Iterable[Request], gates: dict[str, dict[str, Any]] | None = None) -> int:
        """Write `metadata.jsonl` with the requests' cases in their order, intermediate ones left out. Returns their number.

        gates: what a gate found, by request id; it joins the provenance in the metadata.
        """
        done = self.done() - self.removed()
        kept = []
        for request in requests:
            row = self.row(request.id) if request.id in done else {"intermediate": True}
            if row.pop("intermediate"):
                continue
            if gates and request.id in gates:
                provenance = json.loads(row["provenance"]) | {"gates": gates[request.id]}
                row["provenance"] = json.dumps(provenance, ensure_ascii=False, sort_keys=True)
            kept.append(row)
        write_jsonl(self.folder / METADATA, kept)
        return len(kept)


def removed_ids(folder: Path) -> set[str]:
    """Ids of the requests whose cases an audit took out of the data set in `folder`."""
    path = folder / REMOVED
    rows = read_jsonl(path) if path.exists() else []
    return {str(json.loads(row["provenance"])["id"]) for row in rows if row.get("provenance")}


def read_requests(path: Path) -> list[Request]:
    """Requests from a JSONL file, repeats left out. Raises UserError that names the line."""
    requests: dict[str, Request] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            request = Request.from_json(row)
            known = request.id  # what can't be written as JSON has none
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path}, request {number}, is not valid ({error}): it needs background, label, region and seed.") from error
        if not isinstance(request.attributes, dict) or not all(
            isinstance(v, str) for v in (request.background, request.prompt, request.parent)
        ):
            raise UserError(f"{path}, request {number}: background, prompt and parent are texts, and attributes a mapping.")
        if any(abs(v) > MAX_SIDE_PX for corner in (*request.region, *request.lesion) for v in corner):
            raise UserError(f"{path}, request {number}: a corner lies more than {MAX_SIDE_PX} pixels away, outside of any picture.")
        corners = (len(request.region), len(request.lesion))
        if request.label not in ("polyp", "normal") or 1 in corners or 2 in corners or not _is_seed(request.seed):
            raise UserError(
                f"{path}, request {number}: the label is polyp or normal, region and lesion have three corners or more (or none at all: "
                "the whole frame, any shape), and the seed is an integer from 0 to 2**63 - 1."
            )
        try:
            to_vector(request.attributes)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, request {number}: {error}.") from error
        requests[known] = request
    return list(requests.values())


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def write_requests(path: Path, requests: Iterable[Request]) -> None:
    write_jsonl(path, (r.to_json() | {"id": r.id} for r in requests))
