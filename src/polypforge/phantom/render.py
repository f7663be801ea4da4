"""Procedural colonoscopy frames with exact masks: geometry, light, mucosa, and the marks of an endoscope's video."""

from __future__ import annotations

from dataclasses import asdict

import cv2
import numpy as np
from numpy.typing import NDArray

from polypforge.core.seeding import numpy_rng
from polypforge.core.types import NORMAL, POLYP, Case
from polypforge.masks.shapes import component_boxes
from polypforge.phantom.colon import Colon, look_into
from polypforge.phantom.lesion import Polyp, profile, sample_polyp
from polypforge.phantom.noise import fractal, octave, ridges, wrap_sample
from polypforge.phantom.variety import PLAIN, Variety
from polypforge.phantom.video import beside_panel, put_instrument, shaken

Map = NDArray[np.float32]
TEXTURE = 384
LEAST_PX = 64


def render(seed: int, size: int = 256, polyps: int | None = None, overlay: bool = False, variety: Variety = PLAIN) -> Case:
    """One frame. Deterministic by `seed`.

    size: side in pixels (>= 64). polyps: how many to place; None draws 0 (25 %), 1 (60 %), 2 or 3. overlay: burn in text and
    an inset position box, as endoscopes do. variety: how much frames differ; some are wider than `size` then. The mask is exact before
    blur and noise; `provenance["phantom"]` lists each polyp.
    """
    if size < LEAST_PX:
        raise ValueError(f"a phantom frame needs at least {LEAST_PX} pixels a side, not {size}")
    rng = numpy_rng("phantom", seed)
    odd = numpy_rng("phantom variety", seed)  # so that a plain frame stays what it is
    walls, dyed, tool, panel, moved = odd.random(5) < (variety.walls, variety.dye, variety.instruments, variety.panels, variety.shaken)
    colon = look_into(rng, size, wall=bool(walls))
    field = field_shape(rng, size)
    count = int(rng.choice(4, p=[0.25, 0.6, 0.11, 0.04])) if polyps is None else polyps
    chosen = [p for p in (sample_polyp(rng, colon, field, variety) for _ in range(count)) if p is not None]

    depth, mask, tint = _raise_polyps(colon, chosen, size)
    colour = _mucosa(rng, colon, depth, tint, mask)
    if dyed:
        colour = _dyed(odd, colour, chosen, mask)
    rgb = _light(rng, colon, depth, colour)
    rgb = _camera(rng, rgb)
    if tool:
        rgb, hidden = put_instrument(odd, rgb, field)
        mask &= ~hidden
    if moved:
        rgb = shaken(odd, rgb)
    image = np.where(field[..., None], rgb, 0)
    image = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    mask &= field
    if overlay:
        mask &= ~_burn_in(rng, image)
    if panel:
        image, mask = beside_panel(odd, image, mask)
    return Case(
        name=f"phantom-{seed:06d}",
        image=image,
        mask=mask,
        boxes=component_boxes(mask, 4),
        label=POLYP if mask.any() else NORMAL,
        group=f"phantom-{seed}",
        provenance={"phantom": {"seed": seed, "size": size, "polyps": [_plain(p) for p in chosen]}},
    )


def _plain(polyp: Polyp) -> dict:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(polyp).items() if k != "seed"}


def field_shape(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """The endoscope's field of view: an octagon, a circle cut by the frame, or the whole frame."""
    ys, xs = np.mgrid[0:size, 0:size] / (size - 1) * 2 - 1
    kind = rng.choice(3, p=[0.55, 0.3, 0.15])
    if kind == 0:
        return (np.abs(xs) + np.abs(ys) < rng.uniform(1.35, 1.6)) & (np.abs(xs) < 0.985) & (np.abs(ys) < 0.985)
    if kind == 1:
        return np.hypot(xs, ys) < rng.uniform(1.02, 1.25)
    return np.ones((size, size), bool)


def _raise_polyps(colon: Colon, polyps: list[Polyp], size: int) -> tuple[Map, NDArray[np.bool_], Map]:
    """Depth with the polyps in place, their mask, and (S, S, 3) tint: redness, pallor, pit strength."""
    depth = colon.depth.copy()
    mask = np.zeros((size, size), bool)
    tint = np.zeros((size, size, 3), np.float32)
    for polyp in polyps:
        q, rise = profile(polyp, colon)
        at = float(colon.depth[int(polyp.y), int(polyp.x)])
        smooth = cv2.GaussianBlur(np.minimum(depth, at * 1.4), (0, 0), 0.45 * polyp.radius_px)
        world = polyp.radius_px * at / colon.focal_px
        inside = np.clip((1.04 - q) / 0.12, 0, 1)
        blend = inside * (1.0 if polyp.kind != "flat" else 0.25)
        base = depth * (1 - blend) + smooth * blend
        raised = base - polyp.height * world * rise
        shown = (q < 1) & ((raised < depth + 0.05 * at) | (depth > 0.75 * at))
        weight = (inside * (shown | (q >= 1)))[..., None]
        depth = np.where(shown, np.maximum(raised, 0.12), depth)
        tint = tint * (1 - weight) + weight * np.float32([polyp.redness, polyp.pallor, polyp.pits])
        mask |= shown
    return depth.astype(np.float32), mask, tint.astype(np.float32)


def _mucosa(rng: np.random.Generator, colon: Colon, depth: Map, tint: Map, mask: NDArray[np.bool_]) -> Map:
    """(S, S, 3) albedo: base colour, blotches, vessels, stool, and the polyps' own colour and pits."""
    per_radius = TEXTURE / (2 * np.pi)
    u, v = colon.angle * per_radius, colon.depth * per_radius
    base = np.float32([0.86, 0.50, 0.39]) + rng.normal(0, [0.03, 0.05, 0.05]).astype(np.float32)
    blotch = wrap_sample(fractal(rng, TEXTURE, 6, 4), u, v)
    fine = wrap_sample(fractal(rng, TEXTURE, 48, 3, 0.7), u, v)
    warp = 14.0 * octave(rng, TEXTURE, 10)
    thick = ridges(fractal(rng, TEXTURE, 7, 3, 0.45), 0.075)
    thin = ridges(fractal(rng, TEXTURE, 18, 3, 0.5), 0.10) * 0.7
    presence = np.clip(wrap_sample(octave(rng, TEXTURE, 5), u, v) * 0.6 + rng.uniform(-0.2, 0.9), 0, 1)
    bend_u, bend_v = u + wrap_sample(warp, u, v), v + wrap_sample(warp, v, u)
    vessels = np.maximum(wrap_sample(thick, bend_u, bend_v), wrap_sample(thin, bend_u, bend_v)) * presence

    size = depth.shape[0]
    pits_noise = fractal(rng, size, max(8, size // 9), 2, 0.6)
    pits = np.clip(pits_noise, -1.5, 1.5) * tint[..., 2]
    redness = tint[..., 0] + 0.045 * blotch + 0.02 * fine + 0.05 * pits * mask
    vessels = vessels * np.where(mask, 0.35, 1.0)

    albedo = np.repeat(base[None, None], size, 0).repeat(size, 1)
    albedo *= 1 + 0.05 * blotch[..., None] + 0.035 * fine[..., None] + (0.10 * pits * mask)[..., None]
    albedo *= 1 - redness[..., None] * np.float32([-0.12, 0.9, 0.9])
    albedo *= 1 - vessels[..., None] * np.float32([0.14, 0.46, 0.40])
    albedo += tint[..., 1:2] * np.float32([0.5, 0.8, 0.75])
    if rng.random() < 0.25:  # stool or bile on the wall
        dirt = np.clip(wrap_sample(fractal(rng, TEXTURE, 7, 4, 0.6), v, u) - rng.uniform(1.0, 1.7), 0, 0.6) / 0.6
        dirt = dirt[..., None] * np.where(mask, 0.2, 1.0)[..., None]
        albedo = albedo * (1 - 0.75 * dirt) + dirt * np.float32([0.62, 0.46, 0.12]) * 0.75
    return np.clip(albedo, 0.02, 1.0).astype(np.float32)


def _dyed(rng: np.random.Generator, albedo: Map, polyps: list[Polyp], mask: NDArray[np.bool_]) -> Map:
    """Blue dye under and around the polyps, or somewhere on the wall; the polyps take little of it."""
    size = albedo.shape[0]
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    near = np.zeros((size, size), np.float32)
    for polyp in polyps:
        reach = polyp.radius_px * rng.uniform(1.3, 2.6)
        near = np.maximum(near, np.exp(-((xs - polyp.x) ** 2 + (ys - polyp.y) ** 2) / (2 * reach**2)))
    spread = np.clip(0.8 * near + 0.35 * fractal(rng, size, 4, 3) - rng.uniform(0, 0.3), 0, 0.85) * np.where(mask, rng.uniform(0.1, 0.5), 1)
    tone = np.float32([0.28, 0.45, 0.52]) + rng.normal(0, 0.05, 3).astype(np.float32)
    return (albedo + spread[..., None] * (tone - albedo)).astype(np.float32)


def _light(rng: np.random.Generator, colon: Colon, depth: Map, albedo: Map) -> Map:
    """(S, S, 3) linear-ish light: a lamp at the lens, inverse-power falloff, creases darkened, wet highlights."""
    size = depth.shape[0]
    bumps = fractal(rng, size, max(6, size // 24), 4, 0.62)
    wrinkled = depth * (1 + 0.0045 * bumps)
    px, py = colon.grid_x * wrinkled / colon.focal_px, colon.grid_y * wrinkled / colon.focal_px
    ax, ay, az = (cv2.Sobel(m, cv2.CV_32F, 1, 0, ksize=3) for m in (px, py, wrinkled))
    bx, by, bz = (cv2.Sobel(m, cv2.CV_32F, 0, 1, ksize=3) for m in (px, py, wrinkled))
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    length = np.sqrt(nx**2 + ny**2 + nz**2) + 1e-9
    distance = np.sqrt(px**2 + py**2 + wrinkled**2)
    facing = np.clip(np.abs(nx * px + ny * py + nz * wrinkled) / (length * distance), 0, 1)
    # Across an occlusion edge the finite difference is no surface normal: close the thin dark lines that it draws.
    width = 2 * round(size / 110) + 1
    facing = cv2.morphologyEx(facing.astype(np.float32), cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))

    logd = np.log(depth)
    crease = np.clip(logd - cv2.GaussianBlur(logd, (0, 0), size * 0.02), 0, 1)
    falloff = distance ** np.float32(-rng.uniform(0.9, 1.45))
    lit = (0.16 + 0.84 * facing**1.3) * falloff * np.exp(-0.8 * crease)
    lit = cv2.GaussianBlur(lit, (0, 0), size / 420)
    exposure = rng.uniform(0.95, 1.5) / np.percentile(lit[::4, ::4], rng.uniform(62, 86))
    lit = 1 - np.exp(-1.5 * lit * exposure)
    shade = np.stack([lit**0.85, lit**1.05, lit**1.12], -1)

    wet = fractal(rng, size, max(8, size // 12), 3, 0.7)
    shine = np.clip((facing - 0.90) / 0.1, 0, 1) ** 2 * np.clip(wet - rng.uniform(1.3, 2.3), 0, 0.5) * 2
    shine *= np.clip(lit * 1.6, 0, 1)
    glare = np.clip((facing - rng.uniform(0.985, 0.996)) / 0.008, 0, 1) * np.clip(lit * 1.3 - 0.35, 0, 1)
    gloss = cv2.GaussianBlur(np.clip(shine * 1.6 + 0.8 * glare, 0, 1), (0, 0), size / 500)
    return albedo * shade * 1.18 + gloss[..., None] * np.float32([0.85, 0.9, 0.9])


def _camera(rng: np.random.Generator, rgb: Map) -> Map:
    """Vignette, slight defocus, sharpening halo, sensor noise and white balance."""
    size = rgb.shape[0]
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32) / (size - 1) * 2 - 1
    rgb = rgb * (1 - rng.uniform(0.05, 0.3) * (xs**2 + ys**2) / 2)[..., None]
    rgb = cv2.GaussianBlur(rgb, (0, 0), size / 256 * rng.uniform(0.35, 0.9))
    rgb += rng.uniform(0, 0.5) * (rgb - cv2.GaussianBlur(rgb, (0, 0), size / 256 * 1.6))
    rgb *= rng.normal(1, 0.02, 3).astype(np.float32)
    grain = rng.standard_normal((size, size), np.float32) * rng.uniform(0.004, 0.014)
    return rgb + grain[..., None]


def _burn_in(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Invented text at the left and a green or black inset box at the lower left, in place. Returns what the box hides."""
    size = image.shape[0]
    box = round(size * 0.3)
    hidden = np.zeros((size, size), bool)
    if rng.random() < 0.7:
        hidden[-box:, :box] = True
        image[-box:, :box] = (40, 180, 140) if rng.random() < 0.5 else (0, 0, 0)
    lines = ["No: 000000", "Sex:  Age:", "01/01/2000", "12:00:00", "CVP:1 D.F"]
    for row, text in enumerate(lines[: rng.integers(2, 6)]):
        where = (round(size * 0.02), round(size * (0.25 + 0.06 * row)))
        cv2.putText(image, text, where, cv2.FONT_HERSHEY_SIMPLEX, size / 900, (235, 235, 235), 1, cv2.LINE_AA)
    return hidden
