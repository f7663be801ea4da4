"""Splits that keep groups and near-duplicates together and stay the same when files are added."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polypforge.core.errors import UserError
from polypforge.core.seeding import content_hash
from polypforge.data.source import SourceCase

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Which split each case is in, and the cases left out because they tie two earlier splits together."""

    of: Mapping[str, str]
    left_out: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        return dict(Counter(self.of.values()))


def split_cases(cases: Sequence[SourceCase], links: Sequence[tuple[str, str]], shares: Mapping[str, float], seed: int = 0) -> Split:
    """Assign each linked component (same group, or a link between names) to one split.

    A component without an earlier split goes by a hash of its member with the smallest hash, so the shares hold on average, not
    exactly. Splits that cases carry already are kept, and their components follow; a new case that would join components of
    different splits is left out; two *old* cases that do are an error.
    """
    if abs(sum(shares.values()) - 1) > 1e-6 or any(s < 0 for s in shares.values()) or set(shares) - set(SPLITS):
        raise UserError(f"split shares must be given for {', '.join(SPLITS)} and sum to 1, not {dict(shares)}.")
    old = [c for c in cases if c.split]
    new = [c for c in cases if not c.split]
    assigned: dict[str, str] = {}
    for members in components(old, links):
        kinds = {c.split for c in members}
        if len(kinds) > 1:
            names = ", ".join(f"'{c.name}' ({c.split})" for c in members[:4])
            raise UserError(f"{names} belong together but lie in different splits: clear their split or remove all but one.")
        assigned |= {c.name: c.split for c in members}
    left_out = []
    neighbours: dict[str, set[str]] = defaultdict(set)
    for a, b in links:
        neighbours[a].add(b)
        neighbours[b].add(a)
    of_group = {c.group: assigned[c.name] for c in old if c.group}
    free = []
    for case in new:
        ties = {assigned[n] for n in neighbours[case.name] if n in assigned} | ({of_group[case.group]} if case.group in of_group else set())
        if len(ties) > 1:
            left_out.append(case.name)
        elif ties:
            assigned[case.name] = ties.pop()
            if case.group:
                of_group[case.group] = assigned[case.name]
        else:
            free.append(case)
    for members in components(free, links):
        ties = {assigned[n] for c in members for n in neighbours[c.name] if n in assigned}
        ties |= {of_group[c.group] for c in members if c.group in of_group}
        if len(ties) > 1:
            left_out += [c.name for c in members]
            continue
        split = ties.pop() if ties else _by_hash(min(content_hash(["split", seed, c.name]) for c in members), shares)
        assigned |= {c.name: split for c in members}
    return Split(assigned, tuple(sorted(left_out)))


def components(cases: Sequence[SourceCase], links: Sequence[tuple[str, str]]) -> list[list[SourceCase]]:
    """Connected components under "same group" and the links."""
    root = {c.name: c.name for c in cases}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    first: dict[str, str] = {}
    ties = [(a, b) for a, b in links if a in root and b in root]
    ties += [(first.setdefault(c.group, c.name), c.name) for c in cases if c.group]
    for a, b in ties:
        root[find(a)] = find(b)
    found: dict[str, list[SourceCase]] = defaultdict(list)
    for case in cases:
        found[find(case.name)].append(case)
    return list(found.values())


def scenes_of(cases: Sequence[SourceCase], links: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Name of each case -> name of the first case of its component."""
    return {case.name: members[0].name for members in components(cases, links) for case in members}


def crossing(split: Split, cases: Sequence[SourceCase], links: Sequence[tuple[str, str]]) -> int:
    """How many components lie in more than one split: the proof is that it is 0."""
    kept = [c for c in cases if c.name in split.of]
    return sum(len({split.of[c.name] for c in members}) > 1 for members in components(kept, links))


def _by_hash(digest: str, shares: Mapping[str, float]) -> str:
    place, total = int(digest, 16) / 16 ** len(digest), 0.0
    for name in SPLITS:
        total += shares.get(name, 0.0)
        if place < total:
            return name
    return next(name for name in reversed(SPLITS) if shares.get(name))
