"""copy_paste, folder and singan_seg."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.core.images import write_png
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import NORMAL, POLYP, Case, Request
from polypforge.data.folder import write_data_set
from polypforge.masks.shapes import loosened, region_mask
from polypforge.proposals.places import region_polygon
from polypforge.recipes import Job, load_recipe
from polypforge.recipes.colour_transfer import colour_transfer
from polypforge.recipes.copy_paste.paste import turned
from polypforge.recipes.copy_paste.recipe import CopyPaste, CopyPasteConfig
from polypforge.recipes.folder.recipe import Folder, FolderConfig
from polypforge.recipes.graft.recipe import Graft, GraftConfig
from polypforge.recipes.singan_seg.networks import gradient_penalty, sizes
from polypforge.recipes.singan_seg.recipe import SinGANSeg, SinGANSegConfig


def edit(case: Case, seed=1) -> Job:
    return Job(Request(case.name, POLYP, region_polygon(loosened(case.mask, 0.15)), seed), case)


def test_copy_paste_pastes_another_case_and_touches_nothing_else(cases, tmp_path):
    recipe = CopyPaste(CopyPasteConfig())
    recipe.fit(cases)
    recipe.save_pretrained(tmp_path)
    loaded = load_recipe(tmp_path)
    for seed in range(6):
        job = edit(cases[0], seed)
        assert loaded.donor_of(job).name != cases[0].name
        before = cases[0].image.copy()
        made, again = recipe.generate([job])[0], loaded.generate([job])[0]
        outside = ~region_mask(job.request.region, cases[0].size)
        assert np.array_equal(cases[0].image, before)
        assert np.array_equal(made.image[outside], before[outside]) and (made.image != before).any()
        assert np.array_equal(made.image, again.image) and np.array_equal(made.mask, again.mask) and made.mask.any()


def test_copy_paste_prefers_other_patients(cases):
    recipe = CopyPaste(CopyPasteConfig())
    for k, case in enumerate(cases):
        case.group = f"patient-{k % 2}"
    try:
        recipe.fit(cases)
        assert {recipe.donor_of(edit(cases[0], s)).group for s in range(20)} == {"patient-1"}
    finally:
        for case in cases:
            case.group = ""


def test_a_frame_never_gets_its_own_lesion_back(cases):
    """Also where all cases are one patient's."""
    try:
        for case in cases:
            case.group = "one patient"
        recipe = CopyPaste(CopyPasteConfig())
        recipe.fit(cases)
        assert cases[0].name not in {recipe.donor_of(edit(cases[0], s)).name for s in range(40)}
        emptied = Case("a removal's result", cases[0].image, cases[0].mask & False, group="one patient")
        jobs = [Job(edit(cases[0], s).request, emptied) for s in range(40)]
        assert cases[0].name not in {recipe.donor_of(job).name for job in jobs}
        recipe.donors = [d for d in recipe.donors if d.name == cases[0].name]
        with pytest.raises(UserError, match="only case with a lesion"):
            recipe.donor_of(edit(cases[0]))
    finally:
        for case in cases:
            case.group = ""


def test_copy_paste_needs_donors(cases):
    with pytest.raises(UserError, match="at least two"):
        CopyPaste(CopyPasteConfig()).fit(cases[:1])
    with pytest.raises(UserError, match="donor"):
        empty = Case("empty", cases[0].image, np.zeros(cases[0].size, bool))
        recipe = CopyPaste(CopyPasteConfig(), [empty])
        recipe.generate([edit(cases[0])])


def test_a_turned_lesion_keeps_its_area_and_its_pixels(cases):
    donor = Case("d", np.full((40, 60, 3), 200, np.uint8), np.zeros((40, 60), bool))
    donor.mask[10:30, 20:40] = True
    for degrees, mirrored in ((0.0, False), (90.0, True), (37.0, False)):
        made = turned(donor, degrees, mirrored)
        assert made.mask.sum() == pytest.approx(400, rel=0.08) and (made.image == 200).all()
    assert (turned(donor, 0.0, False).mask == donor.mask).all()
    still = CopyPaste(CopyPasteConfig(turn=False))
    still.fit(cases)
    moving = CopyPaste(CopyPasteConfig(), still.donors)
    assert (still.generate([edit(cases[0])])[0].image != moving.generate([edit(cases[0])])[0].image).any()
    with pytest.raises(ValueError, match="fit lies in"):
        CopyPasteConfig(fit=1.2)


def test_graft_redraws_a_pasted_lesion_and_is_whole_when_loaded(cases, tiny_forge, tmp_path):
    tiny_forge.save_pretrained(tmp_path / "forge")
    recipe = Graft(GraftConfig(forge=str(tmp_path / "forge")))
    recipe.fit(cases)
    recipe.save_pretrained(tmp_path / "graft")
    shutil.rmtree(tmp_path / "forge")  # the saved recipe needs nothing beside itself
    loaded = load_recipe(tmp_path / "graft")
    job = edit(cases[0], 3)
    removal = Job(Request("removed", NORMAL, job.request.region, 3), cases[0])
    made, removed = recipe.generate([job, removal])
    again = loaded.generate([removal, job])[::-1]
    assert np.array_equal(made.image, again[0].image) and np.array_equal(removed.image, again[1].image)
    pasted = recipe.paste.generate([job])[0]
    outside = ~region_mask(job.request.region, cases[0].size)
    assert np.array_equal(made.image[outside], cases[0].image[outside]) and (made.image != pasted.image).any()
    with pytest.raises(UserError, match="no weights of forge"):
        Graft(GraftConfig(forge=str(tmp_path / "graft")))


def test_a_graft_starts_from_a_frame_without_the_lesion_that_it_replaces(cases, tiny_forge, monkeypatch):
    recipe = Graft(GraftConfig(), forge=tiny_forge)
    recipe.fit(cases)
    seen = []
    monkeypatch.setattr(recipe.forge, "redraw", lambda jobs, drafts, strength: seen.extend(drafts) or drafts)
    job = edit(cases[0], 3)  # its region covers the frame's own lesion
    recipe.generate([job])
    region = region_mask(job.request.region, cases[0].size)
    stays = region & (cases[0].mask > seen[0].mask)  # of the old lesion, where the pasted one doesn't lie
    assert stays.any() and (seen[0].image[stays] != cases[0].image[stays]).any(-1).mean() > 0.8
    boxed = Case("boxed", cases[0].image, None, boxes=cases[0].boxes)
    recipe.generate([edit(cases[0], 4), Job(job.request, boxed)])  # a box without mask is removed whole, too
    assert len(seen) == 3


def test_folder_gives_each_pair_once(cases, tmp_path):
    write_data_set(tmp_path / "pairs", cases)
    recipe = Folder(FolderConfig(str(tmp_path / "pairs")))
    recipe.save_pretrained(tmp_path / "model")
    loaded = load_recipe(tmp_path / "model")
    assert loaded.capacity == len(cases)
    made = loaded.generate([Job(Request("", POLYP, (), 1000 + k), None) for k in range(len(cases))])
    seen = {tuple(c.image[::40, ::40].ravel()) for c in made}
    assert len(seen) == len(cases) and all(c.mask.any() for c in made)
    with pytest.raises(UserError, match="model.path"):
        Folder(FolderConfig())
    mask = next((tmp_path / "pairs" / "masks").iterdir())
    write_png(mask, np.zeros(cases[0].size, np.uint8))
    with pytest.raises(UserError, match="has changed since"):
        load_recipe(tmp_path / "model")


def test_colours_move_to_the_source():
    rng = numpy_rng("colours")
    image, source = (np.clip(rng.normal(m, 18, (40, 40, 3)), 0, 255).astype(np.uint8) for m in ((90, 120, 60), (170, 100, 90)))
    moved = colour_transfer(image, source)
    lab, like = (cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for x in (moved, source))
    assert np.abs(lab.mean((0, 1)) - like.mean((0, 1))).max() < 1 and np.abs(lab.std((0, 1)) - like.std((0, 1))).max() < 1
    assert np.abs(colour_transfer(source, source).astype(int) - source).max() <= 1


def test_pyramid_and_penalty():
    assert sizes(96, 24, 0.75) == [30, 40, 54, 72, 96]
    real, fake = torch.randn(1, 8, 6, 6), torch.randn(1, 8, 6, 6)

    def steep(x):  # slope of norm 1 for each image
        return (x.view(1, 2, -1) / np.sqrt(4 * 36)).sum()

    assert float(gradient_penalty(steep, real, fake, torch.rand(1, 1, 1, 1))) == pytest.approx(0, abs=1e-6)
    assert float(gradient_penalty(lambda x: 0 * steep(x), real, fake, torch.rand(1, 1, 1, 1))) == pytest.approx(1)


def test_singan_learns_its_images_and_keeps_them_apart(cases, tmp_path):
    config = SinGANSegConfig(images=2, size_px=32, least_px=16, width=12, layers=3)
    recipe = SinGANSeg(config).to(memory_format=torch.channels_last)  # as the training loop lays it out
    recipe.fit(cases)
    optimizer = torch.optim.AdamW(recipe.parameters(), 2e-3, betas=(0.5, 0.999))
    start = sum(recipe.validation_losses({"count": torch.zeros(1)}, 0).values())
    for step in range(60):
        loss, _ = recipe.loss({"count": torch.zeros(1)}, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(recipe.validation_losses({"count": torch.zeros(1)}, 0).values()) < 0.5 * start
    recipe.save_pretrained(tmp_path)
    loaded = load_recipe(tmp_path)
    jobs = [Job(Request("", POLYP, (), seed), None) for seed in (4, 5, 6)]
    a, b, c = loaded.generate(jobs)
    assert (a.image != c.image).any() and (a.image != b.image).any()  # one GAN twice with other noise, another GAN
    assert np.abs(recipe.generate(jobs[:1])[0].image.astype(int) - a.image).mean() < 1
    # the group convolution keeps images apart: a change in one network leaves the other image alone
    with torch.no_grad():
        first = loaded.scales[-1].generator[0]
        first.weight[: config.width].mul_(3)
    d, e, _ = loaded.generate(jobs)
    assert (d.image != a.image).any() != (e.image != b.image).any()
    with pytest.raises(UserError, match="lower model.images"):
        SinGANSeg(SinGANSegConfig(images=50, size_px=32, least_px=16)).fit(cases)
