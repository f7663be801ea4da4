"""`polypforge gate`: judge a folder of generated cases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import write_jsonl
from polypforge.data.folder import METADATA
from polypforge.generation.writer import CaseStore, read_requests
from polypforge.models.locate import locate, set_offline, weights_hash
from polypforge.quality.gate import GateConfig, Verdict, judge
from polypforge.quality.judges import load_judge
from polypforge.workflows.device import device_of


def gate_folder(
    folder: Path, *, model: str = "starter:window_segmenter", min_iou: float = 0.7, device: str = "auto", offline: bool = False
) -> dict[str, Any]:
    """Verdicts for every finished case of `folder` into gate.jsonl; metadata.jsonl then lists the kept ones only.

    Run again with another `min_iou`, it starts from all cases again: nothing is deleted.
    """
    if not (folder / "requests.jsonl").is_file():
        raise UserError(f"{folder} was not written by `polypforge generate`: it has no requests.jsonl.")
    set_offline(offline)
    config = gate_config(min_iou)
    judge_folder = locate(model, offline)
    segmenter = load_judge(judge_folder).to(device_of(device))
    store = CaseStore(folder)
    done = store.done()
    requests = [r for r in read_requests(folder / "requests.jsonl") if r.id in done]
    if not requests:
        raise UserError(f"{folder} holds no finished case: run `polypforge generate` first.")
    verdicts: dict[str, Verdict] = {}
    with Progress(TextColumn("judging"), BarColumn(), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task("judge", total=len(requests))
        for start in range(0, len(requests), 32):
            part = requests[start : start + 32]
            verdicts |= {v.id: v for v in judge(segmenter, [store.load(r.id) for r in part], part, config)}
            bar.advance(task, len(part))
    spoil_children(requests, verdicts)
    write_jsonl(folder / "gate.jsonl", (verdicts[r.id].to_json() for r in requests))
    judged = {"judge": model, "weights": weights_hash(judge_folder), "min_iou": min_iou}
    store.finish([r for r in requests if verdicts[r.id].kept], {r.id: judged | {"segmenter_iou": verdicts[r.id].score} for r in requests})
    parents = {r.parent for r in requests}
    finals = [verdicts[r.id] for r in requests if r.id not in parents]
    reasons = Counter(v.reason for v in finals if not v.kept)
    return {
        "judged": len(finals),
        "kept": sum(v.kept for v in finals),
        "reasons": dict(reasons.most_common()),
        "metadata": str(folder / METADATA),
    }


def gate_config(min_iou: float) -> GateConfig:
    """Raises UserError for a threshold outside 0..1."""
    try:
        return GateConfig(min_iou)
    except ValueError as error:
        raise UserError(f"--min-iou {min_iou}: {error}.") from None


def spoil_children(requests, verdicts: dict[str, Verdict]) -> None:
    """A lesion that was not fully removed spoils what was made on top of that frame. `requests` come parents first."""
    for request in requests:
        parent = verdicts.get(request.parent)
        if parent is not None and not parent.kept and request.id in verdicts:
            verdicts[request.id] = Verdict(request.id, False, "the old lesion was not fully removed", verdicts[request.id].score)
