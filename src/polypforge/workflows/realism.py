"""Figures of a whole synthetic set: can a critic tell it from real lesions, how varied is it, what do repetitions cost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polypforge.core.seeding import numpy_rng
from polypforge.core.types import POLYP, Image, Mask, Request
from polypforge.core.window import around_mask
from polypforge.data.split import components
from polypforge.evaluation.images.diversity import SIDE_PX, ms_ssim_within, vendi_score
from polypforge.features import Encoder
from polypforge.generation.runner import LoadBackground
from polypforge.generation.writer import CaseStore
from polypforge.models.pixels import to_unit
from polypforge.models.precision import fast_inference
from polypforge.quality.audit.training import lesions_of
from polypforge.quality.critic import critic_auc
from polypforge.quality.gates import Subject, Verdict, artefacts
from polypforge.workflows.encoder import STARTER_ENCODER, open_encoder
from polypforge.workflows.opened import Opened

MOST = 250  # lesions of each kind
LOOK_SCALE = 1.6  # window side / longer side of the lesion
PIXEL_SCORES = (artefacts.sharpness, artefacts.noise, artefacts.visible, artefacts.saturation)


def realism(
    requests: Sequence[Request],
    verdicts: Mapping[str, Verdict],
    store: CaseStore,
    opened: Opened | None,
    load: LoadBackground | None,
    device: str = "auto",
) -> dict[str, Any]:
    """Vendi score and MS-SSIM of the kept lesions, with and without repetitions, and the critic's AUC against real lesions."""
    kept = [r for r in requests if verdicts[r.id].kept and r.label == POLYP]
    repeated = [r for r in requests if verdicts[r.id].failed == ("repeats",)]
    result: dict[str, Any] = {"encoder": STARTER_ENCODER, "kept": len(kept), "repetitions left out": len(repeated)}
    own, others = _drawn(kept, store), _drawn(repeated, store)
    if len(own.looks) < 2:
        return result
    encoder = open_encoder(STARTER_ENCODER, device)
    features = lesion_features(encoder, own.looks)
    alike = ms_ssim_within(own.looks)
    result |= {"vendi": vendi_score(features), "ms_ssim": float(np.mean(alike)), "pairs": len(alike)}
    if others.looks:
        both = np.concatenate([features, lesion_features(encoder, others.looks)])
        result["vendi with repetitions"] = vendi_score(both)
        result["ms_ssim with repetitions"] = float(np.mean(ms_ssim_within(own.looks + others.looks)))
    if opened and load:
        real = _real(opened, load)
        if real.looks:
            theirs = lesion_features(encoder, real.looks)
            links = [*opened.report.pairs, *own.links]
            scenes = {c.name: f"scene {k}" for k, g in enumerate(components(opened.source.cases, links)) for c in g}
            groups = [scenes.get(name, name) for name in real.groups + own.groups]
            result["critic"] = _critic(_beside(theirs, real), _beside(features, own), groups)
    return result


@dataclass
class Lesions:
    """Of each lesion: a picture of it, its pixel scores, and the real case behind it. links: donors and the frames they gave to."""

    looks: list[Image] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)

    def add(self, subject: Subject, group: str) -> None:
        self.looks.append(lesion_look(subject.case.image, subject.lesion))
        self.scores.append([score if (score := measure(subject)) is not None else 0.0 for measure in PIXEL_SCORES])
        self.groups.append(group)


def _drawn(requests: Sequence[Request], store: CaseStore) -> Lesions:
    lesions = Lesions()
    for request in requests[:MOST]:
        subject = Subject.synthetic(store.load(request.id), request)
        if subject.lesion.any():
            lesions.add(subject, subject.made_from or request.id)
            lesions.links.append((subject.made_from, request.background))
    return lesions


def _real(opened: Opened, load: LoadBackground) -> Lesions:
    names = [c.name for c in opened.source.cases if c.split in ("train", "val") and c.lesion]
    lesions = Lesions()
    for i in numpy_rng(0, "critic").permutation(len(names))[:MOST]:
        case = load(names[i])
        for part in lesions_of(case)[:1]:
            lesions.add(Subject.real(case, part), names[i])
    return lesions


def lesion_look(image: Image, lesion: Mask) -> Image:
    """(SIDE_PX, SIDE_PX, 3) uint8: the lesion with some of its surroundings."""
    return around_mask(lesion, LOOK_SCALE, 48).crop(image, SIDE_PX)


@torch.inference_mode()
def lesion_features(encoder: Encoder, looks: Sequence[Image]) -> NDArray[np.float32]:
    """(n, D) float32."""
    device = next(encoder.parameters()).device
    parts = []
    with fast_inference(device):
        for start in range(0, len(looks), 32):
            grid = encoder.patches(to_unit(np.stack(looks[start : start + 32])).to(device)).float()
            parts.append(grid.flatten(1, 2).mean(1).cpu().numpy())
    return np.concatenate(parts)


def _beside(features: NDArray[np.float32], lesions: Lesions) -> NDArray[np.float32]:
    return np.concatenate([features, np.asarray(lesions.scores, np.float32)], 1)


def _critic(real: NDArray[np.float32], synthetic: NDArray[np.float32], groups: Sequence[str]) -> dict[str, Any] | None:
    """None where there are too few lesions to say anything."""
    try:
        return critic_auc(real, synthetic, groups, f"{STARTER_ENCODER} and {len(PIXEL_SCORES)} pixel scores").to_json()
    except ValueError:
        return None
