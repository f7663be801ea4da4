import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from polypforge.core.errors import UserError
from polypforge.core.types import Case, Request
from polypforge.data.prepared import prepare
from polypforge.masks.shapes import bounding_box, box_mask, enlarge, inner_distance, polygon_mask
from polypforge.models.locate import locate
from polypforge.proposals.places import region_polygon
from polypforge.recipes import Job, load_recipe
from polypforge.recipes.forge import grain, networks, sampling
from polypforge.recipes.forge.config import ForgeConfig
from polypforge.recipes.forge.detail_loss import drawn_texture_error, rebuilt_error
from polypforge.recipes.forge.examples import VECTOR_DIM, draw, request_vector
from polypforge.recipes.forge.glints import LEAST, RETURNED, with_glints
from polypforge.recipes.forge.grain import with_grain
from polypforge.recipes.forge.leap import MOST_LEAPT, TIMES_AFTER, leapt
from polypforge.recipes.forge.recipe import Forge
from polypforge.recipes.graft.recipe import Graft, GraftConfig
from polypforge.recipes.windows import FEATHER, View, remaining
from polypforge.workflows.train import set_out_from
from tests.conftest import TINY, wake

REGION = ((50, 50), (110, 55), (105, 115), (55, 110))


def job(case, seed=1, region=REGION, label="polyp", **attributes):
    return Job(Request(case.name, label, region, seed, attributes), case)


@pytest.fixture
def frame(polyps):
    return polyps[0]


def test_pixels_outside_the_region_are_bit_equal(tiny_forge, phantoms):
    jobs = [job(c, seed=i) for i, c in enumerate(phantoms[:4])]
    for j, result in zip(jobs, tiny_forge.generate(jobs), strict=True):
        outside = ~polygon_mask(list(REGION), j.background.size)
        assert (result.image[outside] == j.background.image[outside]).all()
        assert (result.image[~outside] != j.background.image[~outside]).mean() > 0.3


def test_the_same_request_gives_the_same_image_in_any_batch_and_order(tiny_forge, phantoms):
    jobs = [job(c, seed=i) for i, c in enumerate(phantoms[:5])]
    together = tiny_forge.generate(jobs)
    backwards = tiny_forge.generate(jobs[::-1])[::-1]
    alone = [tiny_forge.generate([j])[0] for j in jobs]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert np.abs(a.image.astype(int) - b.image).max() <= 6
        assert np.abs(a.image.astype(int) - c.image).max() <= 6


def test_seed_region_and_attributes_reach_the_image(tiny_forge, frame):
    base = tiny_forge.generate([job(frame)])[0]
    for other in (
        job(frame, seed=2),
        job(frame, size=0.9, delta_l=20.0),
        job(frame, label="normal"),
        job(frame, region=((50, 50), (100, 50), (100, 100))),
    ):
        assert (tiny_forge.generate([other])[0].image != base.image).any()


def test_what_the_region_held_does_not_leak_into_the_condition():
    noise = torch.randn(1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 20:40] = 1
    one = networks.context(noise, mask, torch.ones_like(mask))
    two = networks.context(torch.where(mask > 0, torch.randn_like(noise), noise), mask, torch.ones_like(mask))
    assert torch.allclose(one, two)


def test_labels_are_complete(tiny_forge, frame):
    """A lesion outside the region stays in the label; `normal` removes what the region held, and nothing else."""
    other = box_mask((5, 5, 25, 25), frame.size)
    inside = box_mask((70, 70, 90, 90), frame.size)
    background = Case("b", frame.image, other | inside)
    made = tiny_forge.generate([job(background), job(background, label="normal")])
    outside = ~polygon_mask(list(REGION), frame.size)
    assert (made[0].mask[outside] == (other & outside)[outside]).all()
    assert (made[1].mask == (other & outside)).all()


def test_regions_outside_the_view_are_refused(tiny_forge):
    dark = Case("dark", np.zeros((160, 160, 3), np.uint8), np.zeros((160, 160), bool))
    with pytest.raises(UserError, match="field of view"):
        tiny_forge.generate([job(dark)])


def test_examples_keep_image_and_mask_aligned(polyps, rng):
    """A frame that is white exactly on its lesion stays so through every random window."""
    case = polyps[0]
    painted = Case("p", np.where(case.mask[..., None], 255, 90).astype(np.uint8).repeat(3, 2), case.mask)
    pool = [prepare(painted)]
    for _ in range(10):
        example = draw(pool, replace(TINY, detail_px=128, base_px=32, normal_share=0.0), rng)
        lesion, shown = example.mask, example.image[..., 0] > 172
        assert (lesion ^ shown)[example.field].mean() < 0.005


def test_windows_that_are_not_turned_lie_as_when_drawn_into(polyps, rng, monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr("polypforge.recipes.forge.examples.random_window", never)
    example = draw([prepare(polyps[0])], replace(TINY, normal_share=0.0, turned=0.0), rng)
    x0, y0, x1, y1 = bounding_box(example.mask)
    assert abs((x0 + x1) / 2 - TINY.detail_px / 2) < 2 and abs((y0 + y1) / 2 - TINY.detail_px / 2) < 2  # in the middle
    with pytest.raises(ValueError, match="turned are probabilities"):
        replace(TINY, turned=1.5)


def test_examples_from_boxes_only(polyps, rng):
    case = Case("b", polyps[0].image, None, boxes=polyps[0].boxes)
    example = draw([prepare(case)], replace(TINY, normal_share=0.0), rng)
    assert not example.exact and example.region.any()


def test_frames_without_any_region_are_an_error(rng):
    dark = Case("dark", np.zeros((160, 160, 3), np.uint8), np.zeros((160, 160), bool))
    with pytest.raises(UserError, match="no frame"):
        draw([prepare(dark)], TINY, rng)


def test_request_vectors():
    assert request_vector(True, {"size": 0.3}).shape == (VECTOR_DIM,)
    assert not np.array_equal(request_vector(True, None), request_vector(False, None))


def test_mask_is_not_learned_from_boxes(tiny_forge, polyps, rng):
    pool = tiny_forge.prepare([Case("b", polyps[0].image, None, boxes=polyps[0].boxes)])
    target = networks.base_target(TINY, tiny_forge.training_batch(pool, 3, rng))
    assert target.weight[:, 3].max() == 0 and target.weight[:, :3].max() > 0


def test_lesion_and_region_weigh_more(tiny_forge, polyps, rng):
    batch = tiny_forge.training_batch(tiny_forge.prepare(polyps), 8, rng)
    target = networks.base_target(TINY, batch)
    region, lesion = target.context[:, 3] > 0, target.state[:, 3] > 0
    field = target.context[:, 4] > 0
    weight = target.weight[:, 0]
    assert weight[~field].max() == 0
    assert weight[field & region & lesion].min() == pytest.approx(1.5)
    assert weight[field & region & ~lesion].max() == pytest.approx(1.0)
    assert weight[field & ~region].max() == pytest.approx(TINY.surround_weight)


def test_training_lowers_the_loss(tiny_forge, polyps):
    torch.manual_seed(0)
    pool = tiny_forge.prepare(polyps)
    held = tiny_forge.training_batch(pool, 16, np.random.default_rng(9))
    before = tiny_forge.validation_losses(held, 0)
    optimizer = torch.optim.Adam(tiny_forge.parameters(), 2e-3)
    for step in range(40):
        loss, parts = tiny_forge.loss(tiny_forge.training_batch(pool, 8, np.random.default_rng(step)), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = tiny_forge.validation_losses(held, 0)
    assert set(parts) == {"base", "rebuilt", "texture"}
    assert sum(after.values()) < 0.7 * sum(before.values())


def test_only_the_stages_that_are_to_learn_do(polyps):
    for learns, still in ((("base",), "detail"), (("detail",), "base")):
        torch.manual_seed(0)
        recipe = Forge(replace(TINY, learns=learns))
        wake(recipe)
        loss, _ = recipe.loss(recipe.training_batch(recipe.prepare(polyps), 4, np.random.default_rng(0)), torch.Generator().manual_seed(0))
        loss.backward()
        assert all(p.grad is None for p in getattr(recipe, still).parameters())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in getattr(recipe, learns[0]).parameters())
        assert not any(p.requires_grad for p in getattr(recipe, still).parameters())  # or private training would noise it away
    with pytest.raises(ValueError, match="learns names"):
        replace(TINY, learns=("all",))


def detail_case(recipe, polyps):
    batch = recipe.training_batch(recipe.prepare(polyps), 4, np.random.default_rng(0))
    return recipe._detail_target(batch, torch.Generator().manual_seed(0))


def test_the_detail_stage_learns_from_what_the_base_stage_foresees(polyps):
    """With the shipped weights that is softer than the real lesion, as what they draw is; around the region nothing changes."""
    forge = load_recipe(locate("starter:forge")).float()
    batch = forge.training_batch(forge.prepare(polyps), 4, np.random.default_rng(0))
    target = networks.base_target(forge.config, batch)
    drawn = networks.foreseen(forge.base, target, forge._asked(target, batch), torch.Generator().manual_seed(0))
    region = (target.context[:, 3:4] > 0).expand(-1, 3, -1, -1)
    assert not drawn.requires_grad and torch.equal(drawn[:, :3][~region], target.state[:, :3][~region])

    def fine(state):
        return (state[:, :3] - torch.nn.functional.avg_pool2d(state[:, :3], 3, 1, 1))[region].abs().mean()

    assert fine(drawn) < 0.8 * fine(target.state)
    _, coarse = networks.detail_target(forge.config, batch, drawn, torch.Generator().manual_seed(0), crop=False)
    seen = [networks.enlarge(drawn, 4)[i].sub(coarse[i]).abs().max() < 1e-5 for i in range(4)]
    assert any(seen)  # as most examples are


def test_texture_has_its_say_where_something_is_drawn(tiny_forge, polyps):
    target, coarse = detail_case(tiny_forge, polyps)
    region = target.context[:, 3:4] > 0

    def off(made):
        return float(drawn_texture_error(made, target, 4, torch.Generator().manual_seed(0)))

    assert off(target.state) == 0
    assert off(torch.where(region, target.state, 9.0)) == 0  # what stays real is not judged
    assert off(coarse) > 0.1
    batch = tiny_forge.training_batch(tiny_forge.prepare(polyps), 4, np.random.default_rng(0))
    totals = []
    for weight in (0.0, 1.0):
        tiny_forge.config = replace(TINY, texture_weight=weight)
        total, parts = tiny_forge.loss(batch, torch.Generator().manual_seed(0))
        totals.append(float(total.detach()))
    assert totals[1] - totals[0] == pytest.approx(float(parts["texture"]), rel=1e-3) and parts["texture"] > 0
    for wrong, why in (({"texture_weight": -1.0}, "texture_weight"), ({"detail_crop_px": 48}, "multiple of 64")):
        with pytest.raises(ValueError, match=why):
            replace(TINY, **wrong)


def test_the_real_image_has_no_error_and_a_shifted_one_has_its_shift(tiny_forge, polyps):
    target, _ = detail_case(tiny_forge, polyps)
    assert rebuilt_error(target.state, target, 4) == 0
    shift = torch.tensor([0.1, 0.1, 0.1, 0.0]).view(1, 4, 1, 1)
    once = float(rebuilt_error(target.state + shift, target, 4))
    assert 0.085 < once <= 0.1 + 1e-6  # coarse pixels on the region's edge are shifted in part
    assert float(rebuilt_error(target.state - 2 * shift, target, 4)) == pytest.approx(2 * once, rel=1e-4)
    outside = target.state + 5 * (1 - target.context[:, 3:4])
    assert rebuilt_error(outside, target, 4) == 0


def test_a_draft_stays_the_nearer_the_lower_the_strength(polyps):
    """The shipped weights keep a real lesion's form from a low noise level, and draw another one from the highest."""
    forge = load_recipe(locate("starter:forge")).float()
    frame = polyps[0]
    region = box_mask(enlarge(bounding_box(frame.mask), 8, frame.size), frame.size)
    asked = job(frame, region=region_polygon(region))

    def off(strength):
        return np.abs(forge.redraw([asked], [frame], strength)[0].image.astype(float) - frame.image)[frame.mask].mean()

    assert off(0.1) < 0.7 * off(1.0)


def test_drafts_are_redrawn_alike_again_and_need_a_lesion(tiny_forge, frame):
    region = polygon_mask(list(REGION), frame.size)
    draft = Case("d", frame.image, region)
    one, two = (tiny_forge.redraw([job(frame)], [draft], 0.5)[0] for _ in range(2))
    assert (one.image == two.image).all() and (one.image[~region] == frame.image[~region]).all()
    with pytest.raises(UserError, match="no lesion inside the region"):
        tiny_forge.redraw([job(frame)], [Case("d", frame.image, np.zeros(frame.size, bool))], 0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 150), st.integers(0, 150), st.integers(3, 160), st.integers(3, 160), st.sampled_from([1.0, 1.3, 1.75, 3.0]))
def test_the_detail_stage_sees_every_region_whole(x, y, width, height, scale):
    """Also at the frame's edges, and where a window has its least side."""
    config = replace(ForgeConfig(), window_scale=scale)
    case = Case("a", np.full((160, 160, 3), 120, np.uint8), np.zeros((160, 160), bool))
    corners = ((x, y), (min(159, x + width), y), (min(159, x + width), min(159, y + height)), (x, min(159, y + height)))
    _, region, _ = View.of(job(case, region=corners), scale, config.min_window_px).planes(config.detail_px)
    inside = torch.zeros_like(region)
    inside[sampling._middle(config)] = 1
    assert not (region * (1 - inside)).any() and (scale == 1 or inside.mean() < 1)


def test_weights_with_a_head_that_is_gone_are_refused(tiny_forge, tmp_path):
    tiny_forge.save_pretrained(tmp_path)
    (tmp_path / "detail_head").mkdir()
    with pytest.raises((UserError, ValueError), match="a head that forge no longer has"):
        load_recipe(tmp_path)


def test_fewer_steps_are_fewer_calls_of_the_network(tiny_forge, frame):
    seen = []
    hook = tiny_forge.base.register_forward_hook(lambda *_: seen.append(1))
    for steps in (1, 3):
        seen.clear()
        tiny_forge.set_steps(steps)
        tiny_forge.generate([job(frame)])
        assert len(seen) == steps
    hook.remove()
    with pytest.raises(UserError, match="--steps 0: a sampler takes at least one"):
        tiny_forge.set_steps(0)
    with pytest.raises(UserError, match="no number of steps"):
        Graft(GraftConfig()).set_steps(4)


LEAPING = replace(TINY, base_px=32, detail_px=128, leap_rank=4, learns=("leap",))


@pytest.fixture
def leaping():
    torch.manual_seed(0)
    recipe = Forge(LEAPING)
    wake(recipe.base)
    return recipe


@pytest.mark.parametrize("steps", range(1, MOST_LEAPT + 1))
def test_few_steps_set_out_with_the_leap(leaping, frame, steps):
    """The stage is asked at the times after it; what is drawn depends on both, and not at all on the leap in more steps or from a draft."""
    for factor in leaping.leap.up.values():
        torch.nn.init.normal_(factor, 0, 0.1)
    leaping.set_steps(steps)
    asked = []
    hook = leaping.base.register_forward_hook(lambda _, given, __: asked.append(float(given[1][0])))
    drawn = leaping.generate([job(frame)])[0]
    assert asked == pytest.approx([0.005, *TIMES_AFTER[steps - 1]])
    asked.clear()
    redrawn = leaping.redraw([job(frame)], [drawn], 0.6)[0]
    assert len(asked) == 12 and asked[0] == pytest.approx(0.4)  # 0.6 of the whole way
    hook.remove()
    leap, leaping.leap = leaping.leap, None
    assert (leaping.generate([job(frame)])[0].image != drawn.image).any()
    assert (leaping.redraw([job(frame)], [drawn], 0.6)[0].image == redrawn.image).all()
    leaping.set_steps(MOST_LEAPT + 1)
    plain = leaping.generate([job(frame)])[0]
    leaping.leap = leap
    assert (leaping.generate([job(frame)])[0].image == plain.image).all()


def test_steps_after_a_leap_walk_on_along_its_own_noise():
    """The stage is shown what the leap drew with the same noise on it, less of it each time; the last answer is the drawing."""
    drawn, noise = torch.rand(2, 4, 32, 32) * 2 - 1, torch.randn(2, 4, 32, 32)
    times = []

    class Stage(torch.nn.Module):
        def forward(self, x, time, cond):
            at = float(time[0])
            times.append(at)
            assert torch.allclose(x, at * drawn + (1 - at) * noise, atol=1e-4)
            return drawn if at < TIMES_AFTER[-1][-1] else drawn / 2

    for steps in range(1, MOST_LEAPT + 1):
        times.clear()
        found = leapt(lambda base, x, sigma, cond: drawn, Stage(), noise, {}, steps)
        assert times == pytest.approx(TIMES_AFTER[steps - 1])
        assert torch.allclose(found, drawn / 2 if steps == MOST_LEAPT else drawn, atol=1e-5)


def test_guided_weights_do_not_leap(leaping, frame):
    leaping.config = replace(LEAPING, base_steps=2, guidance=1.5)
    guided = leaping.generate([job(frame)])[0].image
    for factor in leaping.leap.up.values():
        torch.nn.init.normal_(factor, 0, 0.1)
    assert not leaping.leaps and (leaping.generate([job(frame)])[0].image == guided).all()
    leaping.config = replace(LEAPING, base_steps=2)
    assert leaping.leaps and leaping.without_leap().config == replace(LEAPING, leap_rank=0, learns=("base", "detail"), base_steps=20)


def test_a_leap_is_saved_with_the_stage(leaping, frame, tmp_path):
    for factor in leaping.leap.up.values():
        torch.nn.init.normal_(factor, 0, 0.1)
    leaping.set_steps(2)
    drawn = leaping.generate([job(frame)])[0].image.astype(int)
    leaping.save_pretrained(tmp_path)
    assert np.abs(load_recipe(tmp_path).generate([job(frame)])[0].image - drawn).max() <= 1


def test_leaps_learn_what_several_steps_draw_and_the_stage_stays(leaping, phantoms):
    before = {k: v.clone() for k, v in leaping.base.state_dict().items()}
    batch = leaping.training_batch([prepare(c) for c in phantoms], 4, np.random.default_rng(0))
    first = leaping.validation_losses(batch, 0)
    optimizer = torch.optim.AdamW([p for p in leaping.parameters() if p.requires_grad], 2e-2)
    for step in range(20):
        loss, parts = leaping.loss(batch, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert set(parts) == set(first) == {"leap", "leap_texture"}
    assert leaping.validation_losses(batch, 0)["leap"] < 0.7 * first["leap"]
    assert all(torch.equal(v, before[k]) for k, v in leaping.base.state_dict().items())


def test_leaps_set_out_from_weights_without_one_and_are_left_out_where_none_is_asked(tiny_forge, leaping, tmp_path):
    stage = Forge(replace(LEAPING, leap_rank=0, learns=("base",)))
    wake(stage)
    stage.save_pretrained(tmp_path / "stage")
    set_out_from(leaping, str(tmp_path / "stage"))
    assert all(torch.equal(a, b) for a, b in zip(leaping.base.state_dict().values(), stage.base.state_dict().values(), strict=True))
    leaping.save_pretrained(tmp_path / "leaping")
    set_out_from(stage, str(tmp_path / "leaping"))
    assert stage.leap is None
    for wrong, said in (({"leap_rank": 0}, "1 or more for a leap"), ({"base_px": 16}, "a multiple of 64 for leaps")):
        with pytest.raises(ValueError, match=said):
            replace(LEAPING, **wrong)


def test_save_and_load(tiny_forge, frame, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "m")
    twin = load_recipe(tmp_path / "m")
    assert twin.config == tiny_forge.config
    ours, theirs = (r.generate([job(frame)])[0].image.astype(int) for r in (tiny_forge, twin))
    assert np.abs(ours - theirs).max() <= 1  # weights lie elsewhere in memory, where some processors sum in another order
    assert all(torch.equal(a, b) for a, b in zip(tiny_forge.state_dict().values(), twin.state_dict().values(), strict=True))
    assert not list((tmp_path / "m").rglob("*.bin"))
    plain = UNet2DModel.from_pretrained(tmp_path / "m" / "base_unet")  # plain diffusers opens it
    assert plain.config.in_channels == 9 * 16


def test_weights_of_earlier_detail_stages_load(tiny_forge, tmp_path, capsys):
    tiny_forge.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["config"] |= {
        "detail_steps": 8,
        "detail_time": [-0.3, 1.0],
        "fooling_weight": 0.05,
        "few_steps": [{"sigmas": [9, 0], "weights": [[1]]}],
    }
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert load_recipe(tmp_path).config == TINY
    assert "its few steps were fitted" in " ".join(capsys.readouterr().err.split())


def test_damaged_weights_are_named(tiny_forge, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "base_unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="incomplete or damaged"):
        load_recipe(tmp_path / "m")
    for command in (lambda: Graft(GraftConfig(forge=str(tmp_path / "m"))), lambda: set_out_from(tiny_forge, str(tmp_path / "m"))):
        with pytest.raises(UserError, match="incomplete or damaged"):
            command()
    (tmp_path / "m" / "config.json").write_text('{"model": "other"}')
    with pytest.raises(UserError, match="doesn't name a recipe"):
        load_recipe(tmp_path / "m")


def test_a_lesion_at_the_edge_of_the_frame_is_repainted_and_leaves_the_label(tiny_forge, frame):
    size = frame.size[0]
    image = np.full((size, size, 3), 130, np.uint8)
    lesion = box_mask((0, 60, 30, 90), (size, size))
    background = Case("edge", image, lesion)
    region = ((0, 50), (45, 50), (45, 100), (0, 100))
    result = tiny_forge.generate([job(background, region=region, label="normal")])[0]
    assert not result.mask.any()
    changed = (result.image != image).any(-1)
    assert changed[lesion].mean() > 0.8


def test_a_rim_outside_the_view_is_no_lesion_but_a_half_covered_one_is():
    lesion, field = box_mask((20, 20, 60, 60), (100, 100)), box_mask((22, 0, 100, 100), (100, 100))
    assert not remaining(lesion, box_mask((22, 10, 70, 70), (100, 100)), field).any()
    half = remaining(lesion, box_mask((40, 10, 70, 70), (100, 100)), field)
    assert half.sum() == 20 * 40


def test_frames_with_boxes_only_are_not_given_incomplete_labels(tiny_forge, frame):
    background = Case("boxes", frame.image, None, boxes=((5, 5, 30, 30),))
    with pytest.raises(UserError, match="must cover every box"):
        tiny_forge.generate([job(background)])


def fine(image):
    return image.astype(np.float32) - cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)


@pytest.fixture
def coarse(monkeypatch):
    """Grain may be as coarse as is asked, also in a small frame."""
    monkeypatch.setattr(grain, "WIDEST", 1.0)


def grained(old=None, seed=1, spread=6.0):
    """(the plain drawing, the same with grain, inside, frame): a smooth drawing on a frame with noise of known spread."""
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(0, spread, (160, 160, 3)).astype(np.float32), (0, 0), 0.7)
    image = np.clip(120 + noise, 0, 255).astype(np.uint8)
    view = View.of(job(Case("noisy", image, np.zeros((160, 160), bool))), 1.75, 72)
    plain = np.full(image.shape, 120, np.float32)
    return plain, with_grain(view, plain, old, 6.0, seed), view.region, image


def test_a_smooth_drawing_gets_the_fine_detail_of_its_surroundings(coarse):
    plain, result, inside, image = grained()
    assert fine(plain)[inside].std() < 0.01
    assert fine(result)[inside].std() == pytest.approx(fine(image)[~inside].std(), rel=0.15)
    neighbours = [np.corrcoef(fine(x)[inside][:-1, 0], fine(x)[inside][1:, 0])[0, 1] for x in (result, image)]
    assert neighbours[0] == pytest.approx(neighbours[1], abs=0.1), "not only as strong, but of the same spectrum"
    assert abs(np.corrcoef(fine(result)[inside].ravel(), fine(image)[inside].ravel())[0, 1]) < 0.1, "nothing of the frame is copied"
    assert not np.allclose(result, grained(seed=2)[1]) and np.allclose(result, grained()[1])


def test_grain_is_only_what_is_missing_and_only_where_tissue_is_seen():
    _, result, inside, image = grained()
    view = View.of(job(Case("noisy", image, np.zeros((160, 160), bool))), 1.75, 72)
    rich = image.astype(np.float32)
    assert np.abs(with_grain(view, rich, None, 6.0, 1) - rich)[inside].std() < 0.35 * np.abs(result - 120)[inside].std()
    assert (grained(old=np.ones((160, 160), bool))[1] == 120).all(), "all that is seen is lesion"


def test_relief_of_the_surroundings_is_no_grain():
    """Whatever scale is asked for: in a small frame only the finest detail counts, the rest is left smooth."""
    _, result, inside, image = grained()
    real, drawn = (x.astype(np.float32) - cv2.GaussianBlur(x.astype(np.float32), (0, 0), 6) for x in (image, result))
    assert 0 < drawn[inside].std() < 0.8 * real[~inside].std()


def test_grain_can_be_switched_off(tiny_forge, phantoms, monkeypatch):
    """With a drawing that has no detail of its own, as an untrained network's has."""
    flat = torch.zeros(1, 4, tiny_forge.config.detail_px, tiny_forge.config.detail_px)
    monkeypatch.setattr(sampling, "_sample", lambda *_: flat)
    made = []
    for scale in (0.0, 2.0):
        monkeypatch.setattr(tiny_forge, "config", replace(tiny_forge.config, grain=scale))
        made.append(tiny_forge.generate([job(phantoms[0])])[0])
    deep = inner_distance(polygon_mask(list(REGION), phantoms[0].size)) > 12
    assert [fine(case.image)[deep].std() > 0.3 for case in made] == [False, True]


@pytest.mark.parametrize("region", [((50, 50), (110, 55), (105, 115), (55, 110)), ((0, 0), (40, 0), (45, 60), (0, 159))])
def test_pasting_looks_at_no_more_than_it_must_and_blends_as_if_it_saw_all(frame, region):
    view = View.of(job(frame, region=region), 1.75, 64)
    drawn = np.full((*frame.size, 3), 99.5, np.float32)
    depth = cv2.distanceTransform((~(view.field & ~view.region)).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    blend = np.clip(depth / max(2.0, FEATHER * view.window.side_px), 0, 1)[..., None]
    wanted = np.where(view.region[..., None], np.rint(frame.image * (1 - blend) + drawn * blend).astype(np.uint8), frame.image)
    assert (view.paste(drawn) == wanted).all()


@pytest.mark.parametrize("scale", [-1.0, 9.0])
def test_impossible_grain_is_refused(tiny_forge, scale):
    with pytest.raises(ValueError, match="grain"):
        replace(tiny_forge.config, grain=scale)


TISSUE = (170, 90, 80)


def blotched(share=1.0, seed=1, height=100.0, spread=0.05, tissue=TISSUE):
    """(the plain drawing, the same with glints, inside): even tissue with one pale blotch of white light, `spread` of the window wide, as a
    camera shows it."""
    view = View.of(job(Case("even", np.full((160, 160, 3), 90, np.uint8), np.zeros((160, 160), bool))), 1.75, 72)
    away = (np.indices((256, 256)) - 127.5) / 256
    light = height * np.exp(-(away**2).sum(0) / (2 * spread**2))
    drawn = ((np.array(tissue) + light[..., None]).clip(0, 255) / 127.5 - 1).astype(np.float32)
    plain = view.enlarged(drawn)
    return plain, with_glints(view, plain, drawn, share, seed), view.region


def test_a_pale_blotch_becomes_sharp_spots():
    plain, wet, inside = blotched()
    assert plain.min(-1).max() < 185 and (wet.min(-1) > 200).sum() > 5
    narrow = blotched(spread=0.02)[:2]  # of a wider one's light a part counts as shading
    before, after = ((picture.min(-1) - min(TISSUE))[inside].sum() for picture in narrow)
    assert after / before == pytest.approx(RETURNED, abs=0.15)
    assert (wet == plain)[~inside].all()
    assert (wet == blotched()[1]).all() and not (wet == blotched(seed=2)[1]).all()


def test_under_a_saturated_blotch_there_is_tissue_not_grey():
    tissue = (235, 90, 80)
    plain, wet, inside = blotched(tissue=tissue, height=120.0)
    assert plain[..., 0].max() > 250
    matt = wet[inside & (wet.min(-1) < 120)]
    assert np.abs(matt - tissue).max(0).max() < 45 and np.abs(matt - tissue).mean() < 8


def test_less_of_the_light_makes_fewer_glints():
    white = [(blotched(share)[1].min(-1) > 200).sum() for share in (0.3, 1.0)]
    assert 0 < white[0] < white[1]


@pytest.mark.parametrize("shown", [{"height": 0.0}, {"height": LEAST / 2}, {"spread": 0.5}])
def test_even_light_and_shading_are_no_reflections(shown):
    plain, wet, _ = blotched(**shown)
    assert (wet == plain).all()


def test_weights_from_before_glints_draw_without_them(tiny_forge, tmp_path):
    tiny_forge.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    stored = json.loads(file.read_text())
    assert type(tiny_forge).load_pretrained(tmp_path).config.glints == tiny_forge.config.glints > 0
    del stored["config"]["glints"]
    file.write_text(json.dumps(stored))
    assert type(tiny_forge).load_pretrained(tmp_path).config.glints == 0.0
    with pytest.raises(ValueError, match="glints"):
        replace(tiny_forge.config, glints=1.5)
