"""Small charts as inline SVG: no script, no font, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np


def paired_histogram(title: str, real: Sequence[float], synthetic: Sequence[float], low: float, high: float, bins: int = 14) -> str:
    """Shares of two samples over the same bins; values outside [low, high] fall into the end bins."""
    edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(np.clip(v, low, high), edges)[0] / max(1, len(v)) for v in (real, synthetic)]
    top = max(0.01, max(float(s.max()) for s in shares))
    width, height, left, base = 300, 150, 8, 118
    step = (width - 2 * left) / bins
    bars = []
    for share, colour, shift in zip(shares, ("#7a8794", "#d9714e"), (0.08, 0.5), strict=True):
        for i, value in enumerate(share):
            h = 92 * value / top
            x = left + step * (i + shift)
            bars.append(f'<rect x="{x:.1f}" y="{base - h:.1f}" width="{step * 0.42:.1f}" height="{h:.1f}" fill="{colour}"/>')
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        + f'<text x="{left}" y="14" class="t">{escape(title)}</text>'
        + "".join(bars)
        + f'<line x1="{left}" y1="{base}" x2="{width - left}" y2="{base}" stroke="#999"/>'
        + f'<text x="{left}" y="{base + 14}" class="a">{low:g}</text>'
        + f'<text x="{width - left}" y="{base + 14}" class="a" text-anchor="end">{high:g}</text>'
        + f'<text x="{width / 2}" y="{base + 28}" class="a" text-anchor="middle"><tspan fill="#5b6670">real n={len(real)}</tspan>'
        + f' · <tspan fill="#c2552f">synthetic n={len(synthetic)}</tspan></text></svg>'
    )


def place_map(title: str, points: Sequence[tuple[float, float]], colour: str) -> str:
    """Lesion centres in the unit square (x right, y down)."""
    left, top, width, height = 8, 22, 284, 214
    dots = "".join(
        f'<circle cx="{left + width * x:.1f}" cy="{top + height * y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.55"/>' for x, y in points
    )
    return (
        f'<svg viewBox="0 0 300 258" role="img" aria-label="{escape(title)}"><text x="{left}" y="14" class="t">{escape(title)}</text>'
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#f4f1ee" stroke="#bbb"/>{dots}'
        f'<text x="150" y="{top + height + 15}" class="a" text-anchor="middle">n={len(points)}</text></svg>'
    )
