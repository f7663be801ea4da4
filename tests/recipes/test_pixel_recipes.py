"""Polyp-DDPM, CondPolypDiff and diffuse-gen with tiny real networks."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import POLYP, Case, Request
from polypforge.data.prepared import prepare
from polypforge.features import load_encoder
from polypforge.masks.shapes import box_mask, loosened
from polypforge.proposals.places import region_polygon
from polypforge.recipes import Job, load_recipe, recipe_class
from polypforge.recipes.cond_polyp_diff.recipe import CondPolypDiffConfig
from polypforge.recipes.diffuse_gen.clusters import cluster_centres, features, nearest_centre
from polypforge.recipes.diffuse_gen.config import DiffuseGenConfig, StylingConfig
from polypforge.recipes.diffuse_gen.styling import StylingLoss
from polypforge.recipes.mask_to_frame import asked_mask
from polypforge.recipes.windows import square_window

UNET = {"widths": [16, 32], "attention": [False, True], "layers": 1, "patch_px": 2, "norm_groups": 8, "head_dim": 8}
X0 = {"prediction": "x0", "snr_gamma": 5.0, "bound_gamma": 5.0}
CONFIGS = {
    "polyp_ddpm": {"unet": UNET, "size_px": 32, "steps": 6, "diffusion": X0 | {"schedule": {"name": "cosine", "steps": 250}}},
    "cond_polyp_diff": {
        "mask_unet": UNET, "image_unet": UNET, "mask_px": 32, "size_px": 32, "mask_steps": 5, "image_steps": 5, "min_thickness_px": 4.0,
        "mask_diffusion": X0 | {"learned_variance": True}, "image_diffusion": {"prediction": "v", "loss": "l1"},
    },
    "diffuse_gen": {
        "unet": UNET, "size_px": 32, "steps": 8, "jump_length": 2, "resamples": 2, "view": "window", "models": "one", "clusters": 1,
        "diffusion": X0 | {"learned_variance": True}, "styling": {"enabled": False, "start": 3},
    },
}  # fmt: skip


def make(name, first_stage, **more):
    cls = recipe_class(name)
    extra = {"first_stage": str(first_stage)} if name == "cond_polyp_diff" else {}
    return cls(from_dict(cls.config_class, CONFIGS[name] | extra | more, name))


def train(recipe, cases, steps=3):
    recipe.fit(cases)
    pool = recipe.prepare(cases)
    optimizer = torch.optim.AdamW([p for p in recipe.parameters() if p.requires_grad], 3e-3)
    losses = []
    for step in range(steps):
        loss, _ = recipe.loss(recipe.training_batch(pool, 4, numpy_rng(step)), torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    recipe.eval()
    return losses


def edit(case: Case, seed=1) -> Job:
    return Job(Request(case.name, POLYP, region_polygon(loosened(case.mask, 0.15)), seed, lesion=region_polygon(case.mask)), case)


@pytest.mark.parametrize("name", CONFIGS)
def test_train_save_load_sample(name, first_stage, cases, tmp_path):
    recipe = make(name, first_stage)
    losses = train(recipe, cases, 40)
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    recipe.save_pretrained(tmp_path)
    loaded = load_recipe(tmp_path)
    asked = (
        [edit(c, k) for k, c in enumerate(cases[:2])]
        if name == "diffuse_gen"
        else [Job(Request(c.name, POLYP, (), k), c) for k, c in enumerate(cases[:2])]
    )
    ours, theirs, alone = recipe.generate(asked), loaded.generate(asked), loaded.generate(asked[1:])
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a.image.astype(int) - b.image).mean() < 1 and (a.mask != b.mask).mean() < 0.01
    assert np.abs(alone[0].image.astype(int) - theirs[1].image).mean() < 2
    for sub in tmp_path.rglob("config.json"):  # what diffusers has a class for opens with it
        if "unet" in sub.parent.name:
            UNet2DModel.from_pretrained(sub.parent)


def test_changing_the_mask_changes_the_image(first_stage, cases):
    for name in ("polyp_ddpm", "cond_polyp_diff"):
        recipe = make(name, first_stage)
        train(recipe, cases, 10)
        jobs = [Job(Request(c.name, POLYP, (), 5), c) for c in cases[:2]]  # one seed, two masks
        a, b = recipe.generate(jobs)
        assert (a.mask != b.mask).any() and (a.image != b.image).any()
        assert np.array_equal(a.mask, square_window(prepare(cases[0])).crop_mask(cases[0].mask, 32))


def test_frames_from_nothing_have_new_masks(first_stage, cases):
    recipe = make("cond_polyp_diff", first_stage)
    train(recipe, cases, 60)
    made = recipe.generate([Job(Request("", POLYP, (), seed), None) for seed in range(4)])
    assert all(c.image.shape == (32, 32, 3) for c in made)
    assert all(not c.mask.any() or c.mask.mean() < 0.9 for c in made)


def test_masks_that_are_no_lesions_are_rejected(first_stage):
    recipe = make("cond_polyp_diff", first_stage, min_thickness_px=16.0)  # 2 px at 32
    plane = torch.full((32, 32), -1.0)
    assert recipe._checked(plane) is None  # empty
    assert recipe._checked(-plane) is None  # full
    speck = plane.clone()
    speck[4:6, 4:6] = 1
    assert recipe._checked(speck) is None
    lesion = speck.clone()
    lesion[10:22, 10:22] = 1
    assert recipe._checked(lesion).sum() == 144  # the largest component only


def test_a_first_stage_is_needed(first_stage):
    with pytest.raises(UserError, match="train one"):
        recipe_class("cond_polyp_diff")(from_dict(recipe_class("cond_polyp_diff").config_class, CONFIGS["cond_polyp_diff"]))


def test_random_crops_never_leave_the_frame(cases):
    """No black corners: every window that varies lies inside the frame."""
    prepared = prepare(cases[0])
    white = Case("white", np.full_like(cases[0].image, 255), cases[0].mask)
    for k in range(60):
        window = square_window(prepared, numpy_rng("crop", k), vary=True)
        assert window.crop(white.image, 48).min() > 250


def test_repaint_keeps_what_is_known(first_stage, cases):
    recipe = make("diffuse_gen", first_stage)
    train(recipe, cases, 3)
    case = recipe.generate([edit(cases[0])])[0]
    outside = ~loosened(cases[0].mask, 0.2)
    assert np.array_equal(case.image[outside], cases[0].image[outside]) and not (case.mask & outside & ~cases[0].mask).any()


def test_clusters_are_reproducible_and_checked(cases):
    encoder = load_encoder("starter:window_segmenter")
    rows = features(encoder, [prepare(c) for c in cases])
    assert rows.shape[0] == len(cases) and np.allclose(np.linalg.norm(rows[:, : rows.shape[1] // 2], axis=1), 1, atol=1e-4)
    first, again = (cluster_centres(rows, 2, 1, 0) for _ in range(2))
    assert np.array_equal(first, again) and set(nearest_centre(rows, first)) == {0, 1}
    with pytest.raises(UserError, match="lower model.clusters"):
        cluster_centres(rows, len(rows) + 1, 1, 0)
    far = np.concatenate([rows, rows.max() * 50 + rows[:1]])
    with pytest.raises(UserError, match="learn by heart"):
        cluster_centres(far, 2, 2, 0)


def test_each_cluster_has_its_network_and_any_may_paint(first_stage, cases, tmp_path):
    recipe = make("diffuse_gen", first_stage, models="per_cluster", clusters=2, smallest_cluster=1)
    recipe.fit(cases)
    pool = recipe.prepare(cases)
    batch = recipe.training_batch(pool, 4, numpy_rng(0))
    recipe.loss(batch, torch.Generator().manual_seed(0))[0].backward()
    used = [any(p.grad is not None for p in unet.parameters()) for unet in recipe.unets]
    assert used == [k in batch["cluster"].tolist() for k in range(2)] and not recipe.uses_all_parameters
    picks = [recipe.model_of(edit(cases[0], seed)) for seed in range(200)]
    assert 60 < picks.count(0) < 140 and picks == [recipe.model_of(edit(cases[0], seed)) for seed in range(200)]
    recipe.save_pretrained(tmp_path)
    assert torch.equal(load_recipe(tmp_path).centres, recipe.centres)


STYLING = {
    "enabled": True, "start": 4, "patches": 8, "colour_transfer": False, "perceptual": "starter:window_segmenter",
    "semantics": "starter:window_segmenter",
}  # fmt: skip
LOSSES = ["zecon", "vgg", "mse", "style", "l2", "semantic", "range"]


@pytest.mark.parametrize("name", LOSSES)
def test_each_guidance_loss_lowers_its_own_quantity(name):
    torch.manual_seed(0)
    encoder = load_encoder("starter:window_segmenter")
    config = StylingConfig(**{k: float(k == name) for k in LOSSES}, patches=16)
    conv = torch.nn.Conv2d(4, 6, 3, padding=1)
    given, real = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    loss = StylingLoss(config, given, real, lambda state: [conv(state)], encoder, encoder)
    loss.before = given * 0.5
    image = torch.randn(2, 4, 32, 32) * 1.2
    before = loss.before.clone()

    def quantity(x):
        loss.before, loss.generator = before.clone(), torch.Generator().manual_seed(3)
        terms = loss.terms(x)
        assert list(terms) == [name]
        return terms[name].sum()

    start = float(quantity(image))
    for _ in range(12):
        x = image.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(quantity(x), x)
        assert (slope[:, 3:] == 0).all()  # the mask is left alone
        image = image - 0.05 * slope / slope.abs().max().clamp_min(1e-12)
    assert float(quantity(image)) < start


def test_all_losses_off_change_nothing():
    loss = StylingLoss(StylingConfig(**dict.fromkeys(LOSSES, 0.0)), *([torch.zeros(1, 3, 8, 8)] * 2), lambda s, t: [], None, None)
    assert float(loss(torch.randn(1, 4, 8, 8), torch.tensor(1.0))) == 0


def test_styling_leaves_the_label_as_it_was(first_stage, cases):
    plain = make("diffuse_gen", first_stage)
    train(plain, cases, 30)
    styled = make("diffuse_gen", first_stage, styling=STYLING)
    styled.load_state_dict(plain.state_dict())
    styled.eval()
    a, b = plain.generate([edit(cases[0])])[0], styled.generate([edit(cases[0])])[0]
    assert np.array_equal(a.mask, b.mask) and (a.image != b.image).any()


def test_specks_can_be_learned_from_and_missing_encoders_are_said_first(first_stage):
    speck = Case("speck", np.full((96, 96, 3), 120, np.uint8), box_mask((40, 40, 45, 45), (96, 96)))
    recipe = make("diffuse_gen", first_stage)
    batch = recipe.training_batch(recipe.prepare([speck]), 2, numpy_rng(1))
    assert batch["state"].shape == (2, 4, 32, 32)
    styled = make("diffuse_gen", first_stage, styling=STYLING | {"perceptual": "vgg19:nowhere.safetensors"})
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        styled.fit([speck])


def test_an_asked_lesion_lies_whole_in_its_square():
    """Wherever it is on a wide frame, and wherever that frame's own lesion is."""
    wide = Case("wide", np.full((160, 320, 3), 120, np.uint8), box_mask((10, 60, 50, 100), (160, 320)))
    for left in (140, 220, 275):
        corners = ((left, 60), (left + 40, 60), (left + 40, 100), (left, 100))
        found = asked_mask(Job(Request("wide", POLYP, (), 1, lesion=corners), wide), 160)
        assert found.sum() == pytest.approx(41 * 41, rel=0.03)
    band = ((10, 70), (310, 70), (310, 90), (10, 90))
    with pytest.raises(UserError, match="larger than the square"):
        asked_mask(Job(Request("wide", POLYP, (), 1, lesion=band), wide), 160)


@pytest.mark.parametrize("wrong", [(CondPolypDiffConfig, "size_px"), (CondPolypDiffConfig, "mask_px"), (DiffuseGenConfig, "size_px")])
def test_sizes_that_a_network_cannot_halve_are_refused(wrong):
    config, key = wrong
    with pytest.raises(ValueError, match="must be a multiple of"):
        config(**{key: 200})


def test_requests_without_a_mask_are_refused(first_stage):
    recipe = make("polyp_ddpm", first_stage)
    empty = Case("empty", np.full((40, 40, 3), 120, np.uint8), np.zeros((40, 40), bool))
    with pytest.raises(UserError, match="needs a mask"):
        recipe.generate([Job(Request("empty", POLYP, (), 1), empty)])
    with pytest.raises(UserError, match="names no background"):
        recipe.generate([Job(Request("", POLYP, (), 1), None)])
    outside = Request("empty", POLYP, (), 1, lesion=((100, 100), (120, 100), (120, 120)))
    with pytest.raises(UserError, match="no lesion|outside"):
        recipe.generate([Job(outside, empty)])
    assert box_mask((0, 0, 1, 1), (2, 2)).any()


def test_a_frame_view_holds_the_region_wherever_it_lies(first_stage):
    """An edit far from the old lesion of a wide frame: the square goes with the region."""
    recipe = make("diffuse_gen", first_stage, view="frame")
    mask = box_mask((40, 100, 100, 160), (300, 500))
    wide = Case("wide", np.full((300, 500, 3), 140, np.uint8), mask)
    job = Job(Request("wide", POLYP, ((400, 100), (480, 100), (480, 180), (400, 180)), 1), wide)
    view = recipe.view_of(job)
    assert view.window.side_px == 300 and view.plane(view.region, 32).sum() > 40
    across = Job(Request("wide", POLYP, ((10, 100), (480, 100), (480, 180), (10, 180)), 1), wide)
    assert recipe.view_of(across).window.side_px > 300  # too long for the square: the window around it


def test_styling_without_encoders_is_refused(first_stage):
    with pytest.raises(UserError, match="styling needs encoders"):
        make("diffuse_gen", first_stage, styling={"enabled": True, "start": 4})


@pytest.mark.parametrize("name", ["polyp_ddpm", "diffuse_gen"])
def test_more_steps_than_the_schedule_has_are_refused(name):
    cls = recipe_class(name)
    with pytest.raises(UserError, match="--steps 5000: a schedule of .* steps can't be walked in 5000"):
        cls.with_steps(cls.config_class(), 5000)
    with pytest.raises(ValueError, match="can't be walked in 5000"):
        CondPolypDiffConfig(mask_steps=5000)
