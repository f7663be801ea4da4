"""`polypforge evaluate`: how close synthetic pictures and labels come to real ones, each figure with extractor, n and interval."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.stats import t as student

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import content_of, write_json, write_text
from polypforge.core.intervals import LEAST_GROUPS, bootstrap_interval
from polypforge.core.types import Case, Image, Mask
from polypforge.core.window import whole_frame
from polypforge.data.layouts import open_source
from polypforge.data.source import Source, SourceCase
from polypforge.evaluation.images.diversity import SIDE_PX, ms_ssim_within
from polypforge.evaluation.images.inception_score import SPLITS, inception_score
from polypforge.evaluation.images.perceptual import linear_weights, perceptual_distance, unit_layers
from polypforge.evaluation.images.sliced import sliced_wasserstein
from polypforge.evaluation.masks.shapes import at_longest, distribution_distances
from polypforge.evaluation.masks.similarity import mask_similarity
from polypforge.evaluation.measures import KID, Figure, compare_features
from polypforge.features import Encoder
from polypforge.features.inception import FidInception
from polypforge.features.vit import ClipEncoder
from polypforge.masks.attributes import SIZES
from polypforge.models.locate import locate, public_name, set_offline, weights_hash
from polypforge.quality.judges import load_judge
from polypforge.reporting.evaluation import markdown
from polypforge.workflows.cluster import on_cluster, refuse_engine
from polypforge.workflows.device import device_here
from polypforge.workflows.encoder import STARTER_ENCODER, open_encoder
from polypforge.workflows.opened import open_made
from polypforge.workflows.pictures import (
    KINDS,
    LESION_PX,
    PictureReader,
    Pictures,
    Spread,
    lesion_picture,
    read_pictures,
    sampled,
    stamps,
    witness,
)
from polypforge.workflows.run_folder import claim, refuse_nesting, versions

DEFAULT_EXTRACTORS = (STARTER_ENCODER, "random_vgg")
DEFAULT_JUDGE = "starter:window_segmenter"
PIXEL_SAMPLE = 128  # pictures of each set for the figures that need pixels again
SLICED_PX = 128
PERCEPTUAL_SAMPLE = 40  # pictures of each set
MOST_FOR_LOGITS = 50_000
LEAST_FOR_SCORE = 500
LACKING = 0.1  # of a set's frames without lesion: told beside figures of whole frames
LEAST_OF_A_KIND = 12
Sample = tuple[list[Image], list[str]]  # pictures, and whom each shows


def evaluate(
    real: str | Path,
    synthetic: str | Path,
    out: str | Path,
    *,
    extractors: Sequence[str] = DEFAULT_EXTRACTORS,
    judge: str = DEFAULT_JUDGE,
    perceptual: str = "random_vgg",
    split: str = "",
    layout: str = "auto",
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, Any]:
    """Measure the synthetic set against the real one; evaluation.json and evaluation.md go to `out`. The same call resumes.

    extractors: see `features.load_encoder`. judge: the segmenter that labels are compared with; best one that the generator's gates did
    not use. perceptual: network of LPIPS: vgg16:FILE for the published measure. split: compare with this split of the real set alone.
    engine: "local", or "ray" for features from `workers` processes on a cluster. Raises UserError.
    """
    refuse_engine(engine, workers)
    real, synthetic, out = Path(real), Path(synthetic), Path(out)
    set_offline(offline)
    asked, device = device, device_here(device, engine)
    sets = _open_both(real, synthetic, split, layout)
    refuse_nesting(real, out)
    refuse_nesting(synthetic, out)
    given = {"real": str(real.resolve()), "synthetic": str(synthetic.resolve()), "split": split, "layout": layout}
    encoders = [open_encoder(name, device) for name in extractors]
    seer = load_judge(locate(judge)).to(device) if judge else None
    seen_by = weights_hash(locate(judge)) if judge else ""
    look = open_encoder(perceptual, device)
    _layers([np.zeros((LESION_PX, LESION_PX, 3), np.uint8)], look)  # a network without feature maps says so before anything is looked at
    claim(out, "evaluate", given | {"extractors": list(extractors), "judge": judge, "perceptual": perceptual})
    console.print(f"{len(sets[0])} real and {len(sets[1])} synthetic cases, {len(encoders)} extractors.")
    names = ("real", "synthetic")
    networks = tuple(extractors), judge, [*stamps(encoders), seen_by], offline
    spread: Spread | None = None
    if engine == "ray":
        spread = lambda folder, todo: on_cluster(picture_worker, (*networks, folder.resolve()), todo, workers, asked)  # noqa: E731
    pictures = [
        read_pictures(w, s.cases, encoders, seer, seen_by, out / "features", device, spread) for w, s in zip(names, sets, strict=True)
    ]
    figures = [f for kind in KINDS for e in encoders for f in _of_features(pictures, e, kind)]
    pixels = [_pixels(p, seed) for seed, p in enumerate(pictures)]
    figures += [f for kind in KINDS for f in _of_pixels(pixels[0][kind], pixels[1][kind], kind, look, perceptual)]
    result = {
        "real": public_name(str(real)), "synthetic": public_name(str(synthetic)), "split": split or "all",
        "n": {"real": len(sets[0]), "synthetic": len(sets[1])},
        "notes": _notes(pictures),
        "figures": [f.to_json() for f in figures],
        "by_size": _by_size(pictures, encoders[0]),
        "masks": label_figures(pictures, judge),
        "versions": versions(), "out": str(out),
    }  # fmt: skip
    write_json(out / "evaluation.json", result)
    write_text(out / "evaluation.md", markdown(result))
    return result


def picture_worker(extractors: Sequence[str], judge: str, known: Sequence[str], offline: bool, folder: Path, device: str) -> PictureReader:
    """A worker of a cluster: it opens the networks for itself. known: the extractors' versions and the judge's.

    Raises UserError when it doesn't see the common folder, or finds other networks.
    """
    where = f"the worker on {platform.node()}"
    if not folder.parent.is_dir():
        raise UserError(f"{where} doesn't see {folder.parent}: put the output on storage that all machines share.")
    set_offline(offline)
    encoders = [open_encoder(name, device) for name in extractors]
    if [*stamps(encoders), weights_hash(locate(judge)) if judge else ""] != list(known):
        raise UserError(f"{where} finds other networks than this machine: put the same weights there, or on storage that all share.")
    return PictureReader(encoders, load_judge(locate(judge)).to(device) if judge else None, folder, device)


def _open_both(real: Path, synthetic: Path, split: str, layout: str) -> tuple[Source, Source]:
    if real.resolve() == synthetic.resolve():
        raise UserError(f"{real} is given as real and as synthetic: name the real folder first, then the synthetic one.")
    theirs, ours = open_source(real, layout), open_made(synthetic, layout)
    if theirs.cases and all(c.provenance.get("synthetic") for c in theirs.cases):
        raise UserError(f"{real} holds synthetic cases only: name the real folder first, then the synthetic one.")
    for source in (theirs, ours):
        if source.lacking:
            console.print(f"{len(source.lacking)} files are not measured: {source.lacking[0]}")
    kept = [c for c in theirs.cases if not c.provenance.get("synthetic") and (not split or c.split == split)]
    for path, cases in ((real, kept), (synthetic, ours.cases)):
        if not cases:
            raise UserError(f"{path} holds no case{f' of the split {split}' if split and path == real else ''}: nothing can be compared.")
        if len(cases) == 1:
            raise UserError(f"{path} holds one case: sets can be compared from two on.")
    shown = {content_of(c.image_path) for c in ours.cases}
    same = {content_of(c.image_path) for c in kept} & shown
    if same == shown:
        raise UserError(f"every picture of {synthetic} lies in {real} too, byte for byte: these are no synthetic ones.")
    if same:
        console.print(f"{len(same)} pictures of {synthetic} lie in {real} too, byte for byte.")
    return Source(real, theirs.layout, kept), ours


def _of_features(pictures: Sequence[Pictures], encoder: Encoder, kind: str) -> list[Figure]:
    real, made = (p.features[encoder.name, kind] for p in pictures)
    if not len(real) or not len(made):
        return []
    name = f"{encoder.name} ({encoder.resizing})"
    groups = pictures[0].groups(kind), pictures[1].groups(kind)
    found = compare_features(real, made, kind, name, isinstance(encoder, ClipEncoder), groups)
    if isinstance(encoder, FidInception) and len(made) < LEAST_FOR_SCORE:
        note = f"{len(made)} pictures in {SPLITS} parts would give a score near 1 whatever they show"
        found.append(Figure("inception_score", kind, name, len(real), len(made), None, note=note))
    elif isinstance(encoder, FidInception):
        part = torch.from_numpy(np.array(made[:MOST_FOR_LOGITS])).to(next(encoder.parameters()).device)
        logits = encoder.logits(part).detach().cpu().numpy()
        mean, spread = inception_score(logits)
        half = float(student.ppf(0.975, SPLITS - 1)) * spread / np.sqrt(SPLITS - 1)
        found.append(Figure("inception_score", kind, name, len(real), len(made), mean, (mean - half, mean + half)))
    return found


def _pixels(pictures: Pictures, seed: int) -> dict[str, Sample]:
    """A sample of frames and lesions, both LESION_PX a side, with their witnesses. seed: another one for each set, or pictures would be
    paired with their own edits where both sets have one order."""

    def frame(_: SourceCase, case: Case) -> Image:
        return whole_frame(case.size).crop(case.image, LESION_PX)

    def lesion(entry: SourceCase, case: Case) -> Image | None:
        found = lesion_picture(entry, case)
        return found[0] if found else None

    return {
        "frame": sampled(pictures.shown("frame"), PIXEL_SAMPLE, seed, frame),
        "lesion": sampled(pictures.shown("lesion"), PIXEL_SAMPLE, seed, lesion),
    }


def _of_pixels(real_sample: Sample, made_sample: Sample, kind: str, encoder: Encoder, name: str) -> list[Figure]:
    """Texture, and how alike pictures are: within the made set, within the real one (the floor), and across."""
    (real, _), (made, _) = real_sample, made_sample
    if min(len(real), len(made)) < 2:
        return []
    n, m = len(real), len(made)
    sliced = sliced_wasserstein(_at(real, SLICED_PX), _at(made, SLICED_PX))
    half = sliced_wasserstein(_at(real[::2], SLICED_PX), _at(real[1::2], SLICED_PX)) if n >= 4 else {}
    found = [Figure(f"sliced_wasserstein {k}", kind, "Laplacian pyramid", n, m, v, floor=half.get(k)) for k, v in sliced.items()]
    small = [_at(s, SIDE_PX) for s in (real, made)]
    within = ms_ssim_within(small[1])
    own = float(np.mean(ms_ssim_within(small[0])))
    found.append(Figure("ms_ssim within", kind, f"{len(within)} pairs", n, m, float(np.mean(within)), floor=own))
    weights = linear_weights() if name.startswith("vgg16") else None
    label = f"LPIPS {name}" if weights else f"unweighted, {name}"
    layers = [_layers(s[:PERCEPTUAL_SAMPLE], encoder) for s in (real, made)]
    floor = float(np.mean(_perceptual(layers[0], layers[0], weights)))
    lone = all(len(set(names[:PERCEPTUAL_SAMPLE])) == len(names[:PERCEPTUAL_SAMPLE]) for _, names in (real_sample, made_sample))
    for what, first in (("within", layers[1]), ("real to synthetic", layers[0])):
        values = _perceptual(first, layers[1], weights)
        used = len(layers[0][0]), len(layers[1][0])
        interval = bootstrap_interval(values) if len(values) >= LEAST_GROUPS and lone else None  # else pairs share a scene
        found.append(Figure(f"perceptual {what}", kind, label, *used, float(np.mean(values)), interval, floor))
    return found


def _at(images: Sequence[Image], size: int) -> list[Image]:
    return [cv2.resize(i, (size, size), interpolation=cv2.INTER_AREA) for i in images]


def _layers(images: Sequence[Image], encoder: Encoder) -> list[torch.Tensor]:
    device = next(encoder.parameters()).device
    parts = [unit_layers(encoder, encoder.look(i)[None].to(device)) for i in images]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def _perceptual(a: list[torch.Tensor], b: list[torch.Tensor], weights: Sequence[torch.Tensor] | None) -> list[float]:
    """Of pairs, each picture in one of them, so that they are independent."""
    n, m = len(a[0]), len(b[0])
    pairs = [(k, k + 1) for k in range(0, n - 1, 2)] if a is b else [(k, k) for k in range(min(n, m))]
    return [float(perceptual_distance([x[[i]] for x in a], [y[[j]] for y in b], weights)) for i, j in pairs]


def _notes(pictures: Sequence[Pictures]) -> list[str]:
    notes = []
    for what, part in zip(("real", "synthetic"), pictures, strict=True):
        sizes = {tuple(row["size"]) for row in part.rows}
        if len(sizes) > 1:
            notes.append(f"The {what} frames have {len(sizes)} sizes; each is stretched to the extractor's square.")
    bare = [1 - part.count("lesion") / max(1, len(part.rows)) for part in pictures]
    if max(bare) > LACKING:
        notes.append(
            f"{bare[0]:.0%} of the real and {bare[1]:.0%} of the synthetic frames show no lesion, which figures of whole frames see, too."
        )
    asked = [c.provenance.get("request") for c in pictures[1].cases]
    inpainted = any(not isinstance(r, dict) or r.get("region") for r in asked)  # or nobody knows
    if inpainted and pictures[1].count("lesion"):
        notes.append("Most of an inpainted frame is real, which flatters figures of whole frames: read those of lesions.")
    return notes


def _by_size(pictures: Sequence[Pictures], encoder: Encoder) -> list[dict[str, Any]]:
    """KID of lesions of one size against real ones of that size."""
    found = []
    for name, (low, high) in SIZES.items():
        parts, groups = [], []
        for p in pictures:
            features = p.features[encoder.name, "lesion"]
            rows = [row for row in p.rows if row["lesion"]]
            index = [k for k, row in enumerate(rows) if row.get("drawn") and low <= row["drawn"]["size"] < high]
            parts.append(np.asarray(features[index]) if index else np.zeros((0, 1), np.float32))
            groups.append(p.groups("lesion")[index])
        row: dict[str, Any] = {"size": name, "real": len(parts[0]), "synthetic": len(parts[1]), "extractor": encoder.name, "kid": None}
        if min(len(parts[0]), len(parts[1])) >= LEAST_OF_A_KIND:
            (kid,) = KID.figures(parts[0], parts[1], (groups[0], groups[1]), "lesion", encoder.name)
            row |= {"kid": kid.value, "interval": kid.interval, "floor": kid.floor}
        found.append(row)
    return found


def label_figures(pictures: Sequence[Pictures], judge: str) -> dict[str, Any] | None:
    """SIM, distributions, sharpness of outlines, agreement with the judge; None without masks on either side."""
    shown = [p.shown("lesion") for p in pictures]
    picks = [[cases[k] for k in np.random.default_rng(1).permutation(len(cases))[: 4 * PIXEL_SAMPLE]] for cases in shown]
    outlines = [[(m, witness(c)) for c in cases if (m := _outline(c)) is not None] for cases in picks]
    if not all(outlines):
        return None
    real, made = ([m for m, _ in part] for part in outlines)
    witnesses = [[who for _, who in part] for part in outlines]
    result: dict[str, Any] = {"n": {"real": len(real), "synthetic": len(made)}}
    for measure in ("pixels", "iou"):
        for turns in (False, True):
            name = f"sim {measure}{' with turns' if turns else ''}"
            floor = mask_similarity(real, None, measure, turns) if len(real) > 1 else None
            result[name] = {"value": mask_similarity(made, real, measure, turns), "real to other real": floor}
    result["distributions"] = distribution_distances(real, made, *witnesses)
    for name in ("sharpness", "agreement"):
        result[name] = {"judge": judge} if name == "agreement" else {}
        for what, p in zip(("real", "synthetic"), pictures, strict=True):
            told = [(row[name], witness(c)) for c, row in zip(p.cases, p.rows, strict=True) if row.get(name) is not None]
            told = [(value, who) for value, who in told if np.isfinite(value)]  # 0 counts: nothing was found where the label is
            values, names = [v for v, _ in told], [who for _, who in told]
            if values:
                interval = bootstrap_interval(values, groups=names) if len(set(names)) >= LEAST_GROUPS else None
                result[name][what] = {"value": float(np.mean(values)), "interval": interval, "n": len(values)}
    return result


def _outline(case: SourceCase) -> Mask | None:
    """The label at the size that labels are compared at; None where it shows nothing."""
    mask = case.load().mask
    small = at_longest(mask) if mask is not None else None
    return small if small is not None and small.any() else None
