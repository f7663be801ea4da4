"""Gates at work on a store of cases: open the judges, take thresholds from real lesions, decide, leave repetitions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypforge.core.console import console
from polypforge.core.intervals import wilson_interval
from polypforge.core.seeding import content_hash, numpy_rng
from polypforge.core.types import Case, Request
from polypforge.generation.runner import LoadBackground
from polypforge.generation.writer import CaseStore
from polypforge.models.locate import locate, public_name, weights_hash
from polypforge.models.memory import Room
from polypforge.quality.audit.training import TrainingPictures, lesion_pictures, lesions_of
from polypforge.quality.detector import load_detector
from polypforge.quality.gates import Gatekeeper, Subject, Verdict
from polypforge.quality.gates.score_log import ScoreLog
from polypforge.quality.gates.settings import GateSettings
from polypforge.quality.gates.verdict import Scores, decide
from polypforge.quality.judges import load_judge
from polypforge.quality.neighbours import descriptor, first_alike
from polypforge.recipes import RECIPES, recipe_class
from polypforge.workflows.device import device_of
from polypforge.workflows.each import each
from polypforge.workflows.opened import Opened

BATCH = 32
FEW = 4  # for gates that take long for each case
SAVE_EVERY = 16  # batches
MOST_REAL = 300  # real lesions from which thresholds are taken
MOST_HELD = 100  # held-out ones that are put to the test
LEAST_HELD = 10  # of them, for the thresholds of judges' gates to come from them alone


@dataclass
class Calibration:
    """What the gates do to real lesions: of `n` held-out ones `passed`, with the 95 % interval of the share; `failed`: by gate.

    label_passed: by the gate label_agreement alone; None where it isn't asked. lesions: real lesions that thresholds come from, and judged:
    those that thresholds of judges' gates come from.
    """

    n: int
    passed: int
    interval: tuple[float, float]
    failed: dict[str, int]
    label_passed: int | None
    lesions: int
    judged: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Look:
    """Cases that are scored at once, and by which gates."""

    requests: Sequence[Request]
    names: frozenset[str]


Scored = tuple[str, Scores, NDArray[np.float32] | None]  # a case's id, its scores, how its lesion looks
Spread = Callable[[Sequence[Look]], Iterable[list[Scored]]]  # looks in any order


class Gating:
    """Judges, rules and thresholds in use. weights: a hash of each model by its name."""

    def __init__(self, settings: GateSettings, device: str = "auto", offline: bool = False) -> None:
        self.settings = settings
        judges = {name: locate(name, offline) for name in settings.judges}
        detectors = {name: locate(name, offline) for name in settings.detectors}
        self.weights = {name: weights_hash(folder) for name, folder in (judges | detectors).items()}
        self._training_state = ""
        self._compares = False  # with real lesions
        self._build_training: Callable[[], None] | None = None  # slow, and only needed for cases that were never compared
        self._room = Room(BATCH)
        where = device_of(device)
        self.keeper = Gatekeeper(
            settings.gates,
            {name: load_judge(folder).to(where) for name, folder in judges.items()},
            {name: load_detector(folder).to(where) for name, folder in detectors.items()},
        )

    @property
    def told_weights(self) -> dict[str, str]:
        """As results may tell them."""
        return {public_name(name): weights for name, weights in self.weights.items()}

    def told(self) -> dict[str, Any]:
        """The settings, as results may tell them."""
        known = self.settings.to_json()
        return known | {kind: [public_name(m) for m in known[kind]] for kind in ("judges", "detectors")} | {"weights": self.told_weights}

    def log(self, folder: Path) -> ScoreLog:
        """Scores in `folder` that these gates took before."""
        depends: dict[str, list[str]] = {
            "judge": [self.weights[m] for m in self.settings.judges],
            "detector": [self.weights[m] for m in self.settings.detectors],
            "training": [self._training_state],
        }
        stamps = {r.name: content_hash([r.gate.version, *depends.get(r.gate.needs, ())])[:10] for r in self.settings.gates}
        return ScoreLog(folder, stamps)

    def calibrate(self, opened: Opened, load: LoadBackground, folder: Path) -> Calibration | None:
        """Thresholds from real lesions of the training cases, then the share of held-out real lesions that would pass all gates.

        None when the data shows no lesion. Scores are kept in `folder`.
        """
        self.compare_with(opened, load)
        log = self.log(folder / opened.state[:12])
        chosen = {split: _sample(opened, split, most) for split, most in (("train", MOST_REAL), ("val", MOST_HELD))}
        learned = self._real_scores(chosen["train"], load, log)
        # What a judge says of cases that it may have learned is no measure: its thresholds come from held-out cases, half of them from
        # each half, and each half is put to the test with the thresholds of the other.
        halves = [self._real_scores(chosen["val"][k::2], load, log) for k in range(2)]
        log.save()
        if not learned:
            return None
        judged = {r.name for r in self.settings.gates if r.gate.needs}
        plain = [{k: v for k, v in row.items() if k not in judged} for row in learned]

        def seen(held: Sequence[Scores]) -> list[Scores]:
            # A few lesions have no 1 %: the laxest of them would set the threshold. Then those that a judge may have learned help out.
            rows = held if len(held) >= LEAST_HELD else [*held, *learned]
            return [{k: v for k, v in row.items() if k in judged} for row in rows]

        verdicts = []
        for half in range(2):
            thresholds = self.keeper.calibrated(plain + seen(halves[1 - half]))
            verdicts += [decide("", row, self.settings.gates, thresholds) for row in halves[half]]
        last = seen(halves[0] + halves[1])
        self.keeper.calibrate(plain + last)
        failed = {r.name: sum(r.name in v.failed for v in verdicts) for r in self.settings.gates}
        passed = sum(v.kept for v in verdicts)
        return Calibration(
            len(verdicts),
            passed,
            wilson_interval(passed, len(verdicts)),
            {name: count for name, count in failed.items() if count},
            len(verdicts) - failed["label_agreement"] if "label_agreement" in failed else None,
            len(learned),
            len(last),
        )

    def compare_with(self, opened: Opened, load: LoadBackground) -> None:
        """The real lesions that must not be copied; looked at when the first case is compared with them."""
        if self._slow:
            self._training_state, self._compares = opened.state, True
            self._build_training = partial(self._remember, opened, load)

    def _look_at_real_lesions(self) -> None:
        """Once, when the first case is compared with them."""
        if self._build_training is not None:
            build, self._build_training = self._build_training, None
            build()

    @property
    def _slow(self) -> set[str]:
        """Gates that only cases that passed the others are asked about."""
        return {r.name for r in self.settings.gates if r.gate.needs == "training"}

    def _remember(self, opened: Opened, load: LoadBackground) -> None:
        """Look at every real lesion once, so that copies of them are known."""
        names = [c.name for c in opened.source.cases if c.split in ("train", "val")]
        found = each("looking at real lesions", lambda name: lesion_pictures(load(name), name), names)
        pictures = [picture for part in found for picture in part]
        self.keeper.training = TrainingPictures(pictures) if pictures else None

    def _real_scores(self, names: Sequence[str], load: LoadBackground, log: ScoreLog) -> list[Scores]:
        """Of every lesion of these cases, each under NAME#NUMBER; judges look at many at once."""
        waiting: list[tuple[str, Subject]] = []
        for name in names:
            if log.missing(f"{name}#0"):
                case = load(name)
                waiting += [(f"{name}#{number}", Subject.real(case, part)) for number, part in enumerate(lesions_of(case))]
            if waiting and (len(waiting) >= BATCH or name == names[-1]):
                others = {r.name for r in self.settings.gates if r.gate.needs != "training"}  # a real lesion is its own copy
                found = self._room.run(partial(self.keeper.scores, names=others), [s for _, s in waiting])
                for (key, _), scores in zip(waiting, found, strict=True):
                    log.add(key, {r.name: scores.get(r.name) for r in self.settings.gates})
                waiting = []
        found = []
        for name in names:
            number = 0
            while not log.missing(f"{name}#{number}"):
                found.append(log.scores(f"{name}#{number}"))
                number += 1
        return found

    def judge(
        self,
        requests: Sequence[Request],
        store: CaseStore,
        log: ScoreLog,
        advance: Callable[[int], None] | None = None,
        spread: Spread | None = None,
    ) -> dict[str, Verdict]:
        """A verdict for each request, parents first; only what `log` doesn't know is computed. The log is saved every few batches.

        spread: who looks, by default this process.
        """
        slow = self._slow
        fast = {r.id: log.missing(r.id) - slow for r in requests}
        self._score(requests, fast, BATCH, log, spread or partial(map, partial(self.look, store=store)), advance)
        if self._compares:
            rest = {r.id: log.missing(r.id) & slow for r in requests if self.keeper.decide(r.id, log.scores(r.id)).kept}
            self._score([r for r in requests if r.id in rest], rest, FEW, log, spread or partial(self._side_by_side, store))
        verdicts = {r.id: self.keeper.decide(r.id, log.scores(r.id)) for r in requests}
        spoil_children(requests, verdicts)
        self.drop_repeats(requests, verdicts, log)
        return verdicts

    def first_look(self, requests: Sequence[Request], log: ScoreLog) -> Look:
        """What `judge` asks of these cases before it asks the slow gates of those that passed."""
        return _look_at({r.id: log.missing(r.id) - self._slow for r in requests}, requests)

    def look(self, look: Look, store: CaseStore) -> list[Scored]:
        """Score a batch of stored cases."""
        return self.look_at(look, [store.load(r.id) for r in look.requests])

    def look_at(self, look: Look, cases: Sequence[Case], room: Room | None = None) -> list[Scored]:
        """Score a batch: the cases of its requests. room: how many at once, where that isn't as many as usual."""
        first = not look.names <= self._slow
        if not first:
            self._look_at_real_lesions()
        subjects = [Subject.synthetic(case, r) for case, r in zip(cases, look.requests, strict=True)]
        scored: list[Scored] = []
        for subject, scores in zip(
            subjects, (room or self._room).run(partial(self.keeper.scores, names=look.names), subjects), strict=True
        ):
            shown = first and subject.lesion.any() and not subject.removed
            scored.append((subject.id, scores, descriptor(subject.case.image, subject.lesion) if shown else None))
        return scored

    def _side_by_side(self, store: CaseStore, looks: Sequence[Look]) -> Iterator[list[Scored]]:
        """In threads: comparing with real lesions is OpenCV's work."""
        self._look_at_real_lesions()
        for start in range(0, len(looks), SAVE_EVERY):
            yield from each("comparing with real lesions", partial(self.look, store=store), looks[start : start + SAVE_EVERY])

    def _score(
        self,
        requests: Sequence[Request],
        missing: Mapping[str, set[str]],
        size: int,
        log: ScoreLog,
        spread: Spread,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Have all requests looked at that lack a score, `size` at once."""
        open_ = [r for r in requests if missing[r.id]]
        if advance:
            advance(len(requests) - len(open_))
        parts = [open_[k : k + size] for k in range(0, len(open_), size)]
        looks = [_look_at(missing, part) for part in parts]
        for number, scored in enumerate(spread(looks) if looks else (), 1):
            for id, scores, view in scored:
                log.add(id, scores, view)
            if number % SAVE_EVERY == 0:
                log.save()
            if advance:
                advance(len(scored))
        log.save()

    def drop_repeats(self, requests: Sequence[Request], verdicts: dict[str, Verdict], log: ScoreLog) -> None:
        """Of kept lesions that look alike the first stays."""
        limit = self.settings.repeats
        kept = [(r.id, view) for r in requests if verdicts[r.id].kept and (view := log.view(r.id)) is not None]
        if limit is None or not kept:
            return
        for (id, _), twin in zip(kept, first_alike([view for _, view in kept], limit), strict=True):
            if twin is not None:
                verdicts[id] = verdicts[id].because("repeats", "the lesion repeats one that was kept already")

    def warn_uncalibrated(self) -> None:
        idle = self.keeper.uncalibrated
        idle += [r.name for r in self.settings.gates if r.gate.needs == "training" and not self._compares]
        if idle:
            console.print(
                f"Not applied, for want of real lesions to take thresholds from or to compare with: {', '.join(idle)}. "
                "Name the real data with --data, or give thresholds."
            )


def _look_at(missing: Mapping[str, set[str]], requests: Sequence[Request]) -> Look:
    """By every gate that one of them lacks."""
    return Look(requests, frozenset(n for r in requests for n in missing[r.id]))


def gates_for(recipes: Iterable[str], settings: GateSettings) -> GateSettings:
    """Without the gate against copies, and saying so, for recipes that take lesions from the data by design."""
    takers = sorted(name for name in set(recipes) if name in RECIPES and recipe_class(name).copies)
    if not takers:
        return settings
    console.print(f"{', '.join(takers)} takes lesions from the data: the result is no more private than the data.")
    return settings.without("copied")


def spoil_children(requests: Sequence[Request], verdicts: dict[str, Verdict]) -> None:
    """A lesion that was not fully removed spoils what was made on top of that frame. `requests` come parents first."""
    for request in requests:
        parent = verdicts.get(request.parent)
        if parent is not None and not parent.kept and request.id in verdicts:
            old = verdicts[request.id]
            verdicts[request.id] = Verdict(old.id, False, "the old lesion was not fully removed", ("parent", *old.failed), old.scores)


def _sample(opened: Opened, split: str, most: int) -> list[str]:
    names = [c.name for c in opened.lesions(split)]
    order = numpy_rng(0, f"gates {split}").permutation(len(names))[:most]
    return [names[i] for i in sorted(order)]
