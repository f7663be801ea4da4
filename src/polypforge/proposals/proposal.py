"""A place and a shape for a lesion in a frame."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from polypforge.core.types import POLYP, Box, Request

Polygon = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Proposal:
    """region: polygon in frame pixels, room for the lesion and its border. lesion: outline asked for, inside it; () leaves it open.
    score: 0..1, comparable within one source. source: retrieval, prior, light, ... rectangle: enclosing the patches
    that matched, or else the lesion.
    reference: name of the real case that lent place or shape. attributes: of that case's lesion."""

    region: Polygon
    score: float
    lesion: Polygon = ()
    source: str = "light"
    rectangle: Box | None = None
    reference: str = ""
    attributes: dict[str, float] = field(default_factory=dict)

    def to_json(self, background: str, rank: int, seed: int) -> dict[str, Any]:
        """A row that `polypforge generate --requests` takes, with what a reader wants to know beside it."""
        request = Request(background, POLYP, self.region, seed, self.attributes, lesion=self.lesion)
        told = asdict(self)
        return request.to_json() | {
            "rank": rank,
            "score": round(self.score, 4),
            "source": self.source,
            "reference": self.reference,
            "rectangle": told["rectangle"],
        }
