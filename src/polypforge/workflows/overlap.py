"""No case that a network is tested on may lie among those that it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polypforge.core.errors import UserError
from polypforge.core.files import read_json, write_json
from polypforge.core.seeding import content_hash
from polypforge.data.duplicates import find_pairs, fingerprint
from polypforge.data.source import SourceCase, state_of
from polypforge.workflows.each import each


def overlap(learned: Sequence[SourceCase], tested: Sequence[SourceCase], cache: Path | None = None) -> list[tuple[str, str]]:
    """Pairs (learned from, tested on) that show the same scene. A result in `cache` for the same files is used again."""
    state = content_hash([state_of(learned), state_of(tested)])
    if cache and cache.exists():
        stored = read_json(cache)
        if stored.get("state") == state:
            return [(a, b) for a, b in stored["pairs"]]
    prints = each("looking for frames of the same scene", lambda c: fingerprint(c.load().image), [*learned, *tested])
    first = len(learned)
    found = [p for p in find_pairs(prints) if p.a < first <= p.b and p.kind != "possible-near-duplicate"]
    pairs = [(learned[p.a].name, tested[p.b - first].name) for p in found]
    if cache:
        write_json(cache, {"state": state, "pairs": pairs})
    return pairs


def refuse_overlap(learned: Sequence[SourceCase], tested: Sequence[SourceCase], what: str, cache: Path | None = None) -> None:
    """Raises UserError with the pairs listed."""
    pairs = overlap(learned, tested, cache)
    if pairs:
        shown = ", ".join(f"'{a}' and '{b}'" for a, b in pairs[:5])
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        raise UserError(f"{what} overlap: {shown}{more} show the same scene. Leave those cases out of one side.")
