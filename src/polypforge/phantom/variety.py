"""How much phantom frames differ from each other: little in demos, as much as those of several hospitals where segmenters learn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variety:
    """radii: of polyps, in shares of the frame's side; radius_shares: how often each. colours: spread of the polyps' redness and pallor, 1
    as plain. Shares of frames: walls, that look at the wall with the lumen out of sight; dye, with blue dye in it; instruments, with the
    shaft of a tool; panels, that are wide, with a panel of text and position beside the field of view; shaken, blurred by motion."""

    radii: tuple[float, ...] = (0.06, 0.11, 0.18)
    radius_shares: tuple[float, ...] = (0.35, 0.4, 0.25)
    colours: float = 1.0
    walls: float = 0.0
    dye: float = 0.0
    instruments: float = 0.0
    panels: float = 0.0
    shaken: float = 0.0


PLAIN = Variety()
VARIED = Variety(
    radii=(0.06, 0.11, 0.18, 0.28, 0.38),
    radius_shares=(0.2, 0.25, 0.25, 0.2, 0.1),
    colours=1.3,
    walls=0.4,
    dye=0.12,
    instruments=0.15,
    panels=0.35,
    shaken=0.2,
)
VARIETIES = {"plain": PLAIN, "varied": VARIED}
