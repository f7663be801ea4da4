"""`polypforge audit`: does a synthetic set copy the real data that it was made from, and does the model betray what it learned?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import inside, read_jsonl, write_json, write_jsonl
from polypforge.core.images import write_png
from polypforge.core.intervals import wilson_interval
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import Image
from polypforge.core.window import around_mask, whole_frame
from polypforge.data.folder import METADATA, REMOVED, is_data_set
from polypforge.data.layouts import open_source
from polypforge.data.source import SourceCase, shows_lesion
from polypforge.data.split import components
from polypforge.evaluation.masks.shapes import at_longest
from polypforge.evaluation.masks.similarity import mask_similarity
from polypforge.features import Encoder
from polypforge.models.locate import locate, set_offline
from polypforge.quality.audit.copies import Match, frame_view, lesion_view
from polypforge.quality.audit.distances import set_distances
from polypforge.quality.audit.membership import case_losses, membership
from polypforge.quality.audit.training import TrainingPictures, frame_pictures, lesion_pictures, lesions_of
from polypforge.quality.gates.memory import COPIED
from polypforge.recipes import load_recipe
from polypforge.reporting.pair_sheet import PairTile, pair_sheet
from polypforge.workflows.device import device_of
from polypforge.workflows.drawn import drawn_lesions, is_whole_frame
from polypforge.workflows.each import each, shown
from polypforge.workflows.encoder import STARTER_ENCODER, open_encoder
from polypforge.workflows.opened import NEAR_HELD_OUT, Opened, keep_report, open_checked, open_made
from polypforge.workflows.realism import lesion_features, lesion_look
from polypforge.workflows.run_folder import refuse_nesting, refuse_occupied

RESULTS, TRAIN_CHECK = "audit.json", "train-check.json"
MOST_NULL = 200  # real pictures from which the usual likeness is learned
MOST_FEATURES = 1000  # lesions of each kind for set-level distances
MOST_ATTACKED = 200  # cases of each kind for the membership attack
SHOWN = 12
OVERLAP = 0.6  # correlation of whole frames above which held-out and training data share a picture


@dataclass(frozen=True)
class Likeness:
    """A synthetic picture's nearest training picture. number: of the lesion in its case; kind: "frame" or "lesion"."""

    case: str
    kind: str
    number: int
    train: str
    train_number: int
    correlation: float
    matches: int
    copied: bool


def audit(
    synthetic: Path,
    train: Path,
    *,
    heldout: Path | None = None,
    model: str | None = None,
    out: Path | None = None,
    false_positives: float = 0.01,
    keep: bool = False,
    layout: str = "auto",
    skip_bad: bool = False,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Compare every synthetic case with all real training cases; copies leave the set's metadata.jsonl unless `keep`.

    The files of copies go to `out`/removed. synthetic: a data set of this tool (its synthetic cases), or any folder of pairs. heldout: real
    cases that nothing learned from; by default the training folder's own test split. Training cases that show a scene of the test split
    are compared with, too, but set no threshold. model: also attack this model for membership. false_positives: share of real pictures
    that may be called copies. Results go to `out` (default: audit/ in a data set of this tool, FOLDER-audit/ beside any other folder,
    whose next reader would take the results for cases). Raises UserError."""
    if not 0 < false_positives < 0.5:
        raise UserError(f"--false-positives is {false_positives:g}: give a share between 0 and 0.5.")
    set_offline(offline)
    device, synthetic = device_of(device), synthetic.resolve()
    out = out or (synthetic / "audit" if is_data_set(synthetic) else synthetic.with_name(f"{synthetic.name}-audit"))
    recipe = load_recipe(locate(model, offline)).to(device) if model else None
    if recipe is not None and not recipe.knows_cases:
        raise UserError(f"{recipe.name} gives no loss of a single case, which an attack on membership needs: leave --model out.")
    if synthetic.resolve() in (train.resolve(), heldout.resolve() if heldout else None):
        raise UserError(f"{synthetic} is given as synthetic and as real: name the synthetic folder first, the real one with --train.")
    for real_folder in filter(None, (train, heldout)):
        refuse_nesting(real_folder, out)
    if not any((out / name).is_file() for name in (RESULTS, TRAIN_CHECK)):  # else it is that of an earlier audit, perhaps a refused one
        refuse_occupied(out)
    made = open_made(synthetic, layout).cases
    real = _open_real(train, layout, skip_bad, out / TRAIN_CHECK)
    members = [c for c in real.source.cases if c.split in ("train", "val")]
    if not members:
        raise UserError(f"{train} has no training case: an audit compares with what the model learned from.")
    others = real.cases("test")
    if heldout:
        others = _open_real(heldout, "auto" if is_data_set(heldout) else layout, skip_bad, out / "heldout-check.json").source.cases
    groups = {c.name: f"group {k}" for k, g in enumerate(components(real.source.cases, real.report.pairs)) for c in g}
    beside = _left_aside(train, layout, real)
    whole = [c for c in made if is_whole_frame(c)]
    kinds = ("lesion", "frame") if whole or others else ("lesion",)
    training = {k: index for k in kinds if (index := _indexed(k, members, groups)) is not None}
    if not training:
        raise UserError(f"{train} shows no lesion to compare with.")
    compared = {k: _null(k, t) for k, t in training.items()}
    twins = sorted({(a, b) for rows in compared.values() for a, b, m in rows if m.correlation > OVERLAP})
    if twins:
        console.print(
            f"{len(twins)} pairs of training cases show one scene ('{twins[0][0]}' and '{twins[0][1]}' ...): they set no threshold."
        )
    null = {k: [m for _, _, m in rows if m.correlation <= OVERLAP] for k, rows in compared.items()}
    null = {k: rows for k, rows in null.items() if rows}
    thresholds = dict.fromkeys(compared, COPIED)
    thresholds |= {k: max(COPIED, float(np.quantile([m.correlation for m in v], 1 - false_positives / 2))) for k, v in null.items()}
    unseen = {k: _matches(k, t, others, synthetic=False) for k, t in training.items()}
    _refuse_overlap(unseen.get("frame", []), training, train)
    found: list[Likeness] = []
    for kind, index in training.items():
        compare = partial(_likenesses, kind, cases=whole if kind == "frame" else made, threshold=thresholds[kind])
        aside = _indexed(kind, beside, {c.name: c.name for c in beside})
        found += _likest(compare(index), compare(aside) if aside else [])
    copied = sorted({row.case for row in found if row.copied})
    features = _features(members, others, made, open_encoder(STARTER_ENCODER, device))
    result: dict[str, Any] = {
        "synthetic": len(made),
        "train": len(members) + len(beside),
        "left_out": {why: len(names) for why, names in real.skipped.items() if why != NEAR_HELD_OUT},
        "heldout": len(others),
        "copied": copied,
        "interval": wilson_interval(len(copied), len(made)),
        "thresholds": {k: round(v, 3) for k, v in thresholds.items()},
        "false_positives": {k: _false_positives([m.correlation for _, _, m in rows], thresholds[k]) for k, rows in unseen.items() if rows},
        "twins_in_training": twins,
        "usual_likeness": {k: _summary([m.correlation for m in null[k]]) for k in null},
        "set": {"encoder": STARTER_ENCODER, **set_distances(*features).to_json()} if len(features[2]) and len(features[0]) > 1 else None,
        "mask_similarity": _mask_similarity(members, others, made),
        "membership": _attack(recipe, real.cases("train"), others) if recipe is not None else None,
    }
    write_jsonl(out / "likeness.jsonl", (asdict(row) for row in sorted(found, key=lambda r: -r.correlation)))
    closest = sorted(found, key=lambda r: -r.correlation)[:SHOWN]
    if closest:
        write_png(out / "closest.png", _picture(closest, {c.name: c for c in made}, {c.name: c for c in [*members, *beside]}))
    result["removed"] = 0 if keep else _remove(synthetic, out, copied)
    _put_aside(synthetic, out / "removed")
    result["out"] = str(out)
    write_json(out / RESULTS, result)
    return result


def _open_real(folder: Path, layout: str, skip_bad: bool, cache: Path) -> Opened:
    made = [c.name for c in open_source(folder, layout).cases if c.provenance.get("synthetic")]
    if made:
        raise UserError(
            f"{folder} holds {len(made)} synthetic cases ('{made[0]}' ...): the audit compares with real ones only. Name the folder that "
            "they were made from."
        )
    opened = open_checked(folder, layout, skip_bad, cache=cache, min_cases=1)
    keep_report(opened, cache)
    return opened


def _left_aside(train: Path, layout: str, real: Opened) -> list[SourceCase]:
    """Training cases that were left out as near-duplicates of held-out ones: whoever made the synthetic cases may have learned them."""
    names = set(real.skipped.get(NEAR_HELD_OUT, ()))
    return [c for c in open_source(train, layout).cases if c.name in names] if names else []


def _indexed(kind: str, cases: Sequence[SourceCase], groups: dict[str, str]) -> TrainingPictures | None:
    look = lesion_pictures if kind == "lesion" else frame_pictures
    found = each(f"looking at training {kind}s", lambda source: look(source.load(), groups[source.name]), cases)
    pictures = [picture for part in found for picture in part]
    return TrainingPictures(pictures) if pictures else None


def _null(kind: str, training: TrainingPictures) -> list[tuple[str, str, Match]]:
    """(case, its likest other case, likeness) of training pictures to those of other groups: what is usual between real pictures."""
    numbers = sorted(numpy_rng(0, "audit").permutation(len(training.origins))[:MOST_NULL].tolist())
    found = each(f"comparing real {kind}s", lambda n: training.nearest(training.view(n), training.origins[n].group), numbers)
    return [
        (training.origins[n].case, training.origins[m.index].case if m.index >= 0 else "", m) for n, m in zip(numbers, found, strict=True)
    ]


def _matches(kind: str, training: TrainingPictures, cases: Sequence[SourceCase], synthetic: bool) -> list[tuple[str, int, Match]]:
    """(case, number of its lesion, match) of every frame, or of every lesion; of synthetic cases, of those that were drawn."""

    def look(source: SourceCase) -> list[tuple[str, int, Match]]:
        case = source.load()
        if kind == "frame":
            views = [frame_view(case.image)]
        else:
            views = [lesion_view(case.image, m) for m in (drawn_lesions(source, case) if synthetic else lesions_of(case))]
        return [(case.name, number, training.nearest(view)) for number, view in enumerate(views)]

    what = f"comparing {'synthetic' if synthetic else 'held-out'} {kind}s"
    return [row for rows in each(what, look, cases) for row in rows]


def _likenesses(kind: str, training: TrainingPictures, cases: Sequence[SourceCase], threshold: float) -> list[Likeness]:
    rows = []
    for name, number, match in _matches(kind, training, cases, synthetic=True):
        if match.index >= 0:
            origin = training.origins[match.index]
            hit = match.correlation > threshold
            rows.append(Likeness(name, kind, number, origin.case, origin.number, match.correlation, match.matches, hit))
    return rows


def _likest(rows: list[Likeness], others: list[Likeness]) -> list[Likeness]:
    """Of each synthetic picture, the more alike of its two matches."""
    best: dict[tuple[str, int], Likeness] = {}
    for row in [*rows, *others]:
        key = row.case, row.number
        if key not in best or row.correlation > best[key].correlation:
            best[key] = row
    return list(best.values())


def _refuse_overlap(frames: Sequence[tuple[str, int, Match]], training: Mapping[str, TrainingPictures], train: Path) -> None:
    shared = [(name, m) for name, _, m in frames if m.correlation > OVERLAP]
    if shared:
        of = training["frame"].origins
        names = ", ".join(f"'{name}' and '{of[m.index].case}' (correlation {m.correlation:.2f})" for name, m in shared[:8])
        more = f" and {len(shared) - 8} more" if len(shared) > 8 else ""
        raise UserError(f"{len(shared)} held-out frames show pictures of {train}, too: {names}{more}. Leave them out of the held-out set.")


def _false_positives(correlations: Sequence[float], threshold: float) -> dict[str, Any]:
    hits = sum(c > threshold for c in correlations)
    return {"share": hits / len(correlations), "interval": wilson_interval(hits, len(correlations)), "n": len(correlations)}


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"n": len(values), "median": float(np.median(values)), "99 %": float(np.quantile(values, 0.99)), "largest": float(max(values))}


def _features(members: Sequence[SourceCase], others: Sequence[SourceCase], made: Sequence[SourceCase], encoder: Encoder):
    """Features of lesions: of training, held-out and synthetic cases."""
    members, others = _lesions(members), _lesions(others)
    found = []
    for what, cases in (("training", members), ("held-out", others), ("synthetic", made)):
        looks = []
        for source in shown(f"features of {what} lesions", _sampled(cases)):
            case = source.load()
            parts = drawn_lesions(source, case) if what == "synthetic" else lesions_of(case)
            looks += [lesion_look(case.image, m) for m in parts]
        found.append(lesion_features(encoder, looks) if looks else np.zeros((0, 1), np.float32))
    return found


def _lesions(cases: Sequence[SourceCase]) -> list[SourceCase]:
    """Those that show one: else few would be left of a sample among many frames without."""
    return [c for c in cases if shows_lesion(c)]


def _sampled(cases: Sequence[SourceCase]) -> list[SourceCase]:
    return [cases[i] for i in sorted(numpy_rng(2, "audit").permutation(len(cases))[:MOST_FEATURES])]


def _mask_similarity(members: Sequence[SourceCase], others: Sequence[SourceCase], made: Sequence[SourceCase]) -> dict[str, float] | None:
    """SIM of the whole masks by IoU, flips and turns included; of held-out real masks for comparison."""
    parts = (_lesions(members), _lesions(others), made)
    sets = [[at_longest(m) for c in _sampled(cases) if (m := c.load().mask) is not None and m.any()] for cases in parts]
    if not sets[0] or not sets[2]:
        return None
    found = {"synthetic": mask_similarity(sets[2], sets[0], "iou", True)}
    return found | ({"held-out": mask_similarity(sets[1], sets[0], "iou", True)} if sets[1] else {})


def _attack(recipe, members: Sequence[SourceCase], others: Sequence[SourceCase]) -> dict[str, Any] | None:
    losses = []  # of lesions: frames without one lose otherwise, whether they were learned or not
    for what, cases in (("training", _lesions(members)), ("held-out", _lesions(others))):
        picks = [cases[i] for i in sorted(numpy_rng(1, "audit").permutation(len(cases))[:MOST_ATTACKED])]
        values = [case_losses(recipe, [c.load()])[0] for c in shown(f"attacking with {what} cases", picks)]
        losses.append([v for v in values if v is not None])
    try:
        return membership(*losses).to_json()
    except ValueError as error:
        console.print(f"No membership attack: {error}.")
        return None


def _remove(synthetic: Path, out: Path, copied: Sequence[str]) -> int:
    """Take copies out of the set's list; their rows go to removed.jsonl, which later runs of `gate`, `generate` and `expand` heed.

    A folder without a list is left as it is.
    """
    path = synthetic / METADATA
    if not copied or not path.is_file():
        if copied:
            console.print(f"{synthetic} has no {METADATA}: its {len(copied)} copies are only named, in {out / 'audit.json'}.")
        return 0
    rows = read_jsonl(path)
    names = set(copied)
    gone = [r for r in rows if Path(r["image_file_name"]).stem in names and _says_synthetic(r)]
    before = read_jsonl(synthetic / REMOVED) if (synthetic / REMOVED).exists() else []
    write_jsonl(synthetic / REMOVED, before + gone)
    write_jsonl(path, [r for r in rows if r not in gone])
    return len(gone)


def _put_aside(synthetic: Path, aside: Path) -> None:
    """The files of cases that are removed, out of what is shared; those that an interrupted audit left, too."""
    listed = synthetic / REMOVED
    for row in read_jsonl(listed) if listed.exists() else []:
        for name in (row["image_file_name"], row.get("mask_file_name")):
            path = inside(synthetic, name) if name else None
            if path is not None and path.is_file():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, aside / name)


def _says_synthetic(row: dict[str, Any]) -> bool:
    """Real cases are never removed."""
    return bool(json.loads(row.get("provenance") or "{}").get("synthetic"))


def _picture(rows: Sequence[Likeness], made: dict[str, SourceCase], members: dict[str, SourceCase]) -> Image:
    tiles = []
    for row in rows:
        ours, theirs = made[row.case].load(), members[row.train].load()
        if row.kind == "frame":
            pictures = [whole_frame(c.size).crop(c.image, 200) for c in (ours, theirs)]
        else:
            lesions = drawn_lesions(made[row.case], ours)[row.number], lesions_of(theirs)[row.train_number]
            pictures = [around_mask(m, 1.3, 32).crop(c.image, 200) for c, m in zip((ours, theirs), lesions, strict=True)]
        text = f"{row.kind}: correlation {row.correlation:.2f}, {row.matches} matches{', COPIED' if row.copied else ''}"
        tiles.append(PairTile(pictures[0], pictures[1], (f"{row.case[:26]} | {row.train[:26]}", text), row.copied))
    return pair_sheet(tiles)
