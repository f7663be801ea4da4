"""Polyp-Gen, DiffAug, latent blending and ControlNet inpainting over tiny real pipelines."""

import shutil

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import NORMAL, POLYP, Case, Request
from polypforge.data.prepared import prepare
from polypforge.diffusion.gaussian import Errors
from polypforge.masks.shapes import bounding_box, box_mask, dilate, loosened
from polypforge.models.latent_backbone import BackboneConfig, build_backbone
from polypforge.models.latent_cache import LatentCache
from polypforge.proposals.places import region_polygon
from polypforge.recipes import Job, load_recipe, recipe_class
from polypforge.recipes.diffaug.recipe import masked_with_preservation
from polypforge.recipes.latent_inpainting.recipe import Seen
from polypforge.recipes.latent_inpainting.schedule import diffusion_of
from polypforge.recipes.polyp_gen.recipe import NORMAL_PROMPT, POLYP_PROMPT, PolypGen, PolypGenConfig, lesion_guided
from polypforge.recipes.windows import View, asked_lesion

SETUPS = [("polyp_gen", "inpaint"), ("diffaug", "xl"), ("diffaug", "inpaint"), ("blended_latent", "plain"), ("control_inpaint", "plain")]


def make(name, weights, **more):
    cls = recipe_class(name)
    values = {"backbone": {"weights": str(weights)}, "size_px": 64, "steps": 3, "views": 2, "guidance": 3.0} | more
    return cls(from_dict(cls.config_class, values, name))


def job(case: Case, label: str = POLYP, seed: int = 1, **more) -> Job:
    lesion = case.mask
    region = loosened(lesion, 0.15)
    return Job(Request(case.name, label, region_polygon(region), seed, lesion=region_polygon(lesion), **more), case)


def train(recipe, cases, steps=2, rate=1e-3):
    recipe.fit(cases)
    pool = recipe.prepare(cases)
    learned = [p for p in recipe.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, rate)
    for step in range(steps):
        loss, _ = recipe.loss(recipe.training_batch(pool, 3, numpy_rng(step)), torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return recipe.eval()


@pytest.mark.parametrize(("name", "kind"), SETUPS)
def test_train_save_load_sample(name, kind, pipelines, cases, tmp_path):
    recipe = make(name, pipelines[kind])
    frozen = {k: v.clone() for k, v in recipe.backbone.vae.state_dict().items()}
    if name != "blended_latent":  # training-free with pretrained weights
        train(recipe, cases)
    else:
        assert not any(p.requires_grad for p in recipe.parameters())
    assert all(torch.equal(v, frozen[k]) for k, v in recipe.backbone.vae.state_dict().items())
    recipe.save_pretrained(tmp_path / "model")
    loaded = load_recipe(tmp_path / "model")
    first, second = job(cases[0]), job(cases[1], seed=2)
    ours, theirs = recipe.generate([first, second]), loaded.generate([first, second])
    alone = loaded.generate([second])
    for made, again in zip(ours, theirs, strict=True):
        assert np.abs(made.image.astype(int) - again.image).mean() < 1
    assert np.abs(alone[0].image.astype(int) - theirs[1].image).mean() < 1
    for made, asked in zip(ours, (first, second), strict=True):
        outside = ~loosened(asked.case.mask, 0.2)
        assert np.array_equal(made.image[outside], asked.case.image[outside]) and (made.image != asked.case.image).any()
        assert made.mask.any() and made.label == POLYP
    removed = loaded.generate([job(cases[0], NORMAL)])[0]
    assert removed.label == NORMAL or removed.mask.sum() < 0.3 * cases[0].mask.sum()


@pytest.mark.parametrize(("name", "kind", "pipeline"), [
    ("polyp_gen", "inpaint", "StableDiffusionInpaintPipeline"),
    ("diffaug", "xl", "StableDiffusionXLInpaintPipeline"),
    ("control_inpaint", "plain", "StableDiffusionControlNetInpaintPipeline"),
])  # fmt: skip
def test_saved_weights_open_with_plain_diffusers(name, kind, pipeline, pipelines, tmp_path):
    make(name, pipelines[kind]).save_pretrained(tmp_path)
    pipe = getattr(diffusers, pipeline).from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    frame, mask = PIL.Image.new("RGB", (64, 64), (180, 90, 80)), PIL.Image.new("L", (64, 64), 255)
    extra = {"control_image": frame} if name == "control_inpaint" else {}
    result = pipe("polyp", image=frame, mask_image=mask, num_inference_steps=2, height=64, width=64, output_type="np", **extra).images[0]
    assert result.shape == (64, 64, 3) and np.isfinite(result).all()


def test_mask_and_prompt_reach_the_network(pipelines, cases):
    recipe = train(make("polyp_gen", pipelines["inpaint"], regions=["outline"]), cases, steps=6, rate=1e-2)
    plain = recipe.generate([job(cases[0])])[0].image
    other_prompt = recipe.generate([job(cases[0], prompt="Normal")])[0].image
    smaller = Request(cases[0].name, POLYP, job(cases[0]).request.region, 1, lesion=region_polygon(dilate(~dilate(~cases[0].mask, 3), 0)))
    other_mask = recipe.generate([Job(smaller, cases[0])])[0].image
    assert (plain != other_prompt).any() and (plain != other_mask).any()


def test_lora_trains_and_saves_adapters_only(pipelines, cases, tmp_path):
    recipe = make("polyp_gen", pipelines["inpaint"], backbone={"weights": str(pipelines["inpaint"]), "lora_rank": 2})
    learned = [n for n, p in recipe.named_parameters() if p.requires_grad]
    assert learned and all("lora" in n for n in learned)
    train(recipe, cases)
    recipe.save_pretrained(tmp_path)
    assert (tmp_path / "pytorch_lora_weights.safetensors").is_file() and not (tmp_path / "unet").exists()
    again = load_recipe(tmp_path)
    a, b = recipe.generate([job(cases[0])])[0].image, again.generate([job(cases[0])])[0].image
    assert np.abs(a.astype(int) - b).mean() < 1
    pipe = diffusers.StableDiffusionInpaintPipeline.from_pretrained(pipelines["inpaint"])
    pipe.load_lora_weights(tmp_path)  # plain diffusers reads the adapter, too
    (tmp_path / "base.json").write_text('{"weights": "those of another day"}')
    with pytest.raises(UserError, match="adapts other weights than those of"):
        load_recipe(tmp_path)


def test_lesion_loss_by_hand_on_4x4():
    each = torch.arange(16.0).view(1, 1, 4, 4)
    lesion = torch.zeros(1, 1, 4, 4)
    lesion[..., 1:3, 1:3] = 1  # elements 5, 6, 9, 10
    errors = Errors(each, torch.ones(1), each, torch.zeros(1), torch.ones(1, 1, 1, 1))
    assert float(lesion_guided(errors, lesion, 0.5)) == pytest.approx(120 / 16 + 0.5 * 30 / 16)
    weighted = errors._replace(weight=torch.tensor([0.2]))
    assert float(lesion_guided(weighted, lesion, 0.5)) == pytest.approx(0.2 * (120 / 16 + 0.5 * 30 / 16))


def test_preservation_has_a_gradient_outside_the_region_only():
    guess = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    clean, region = torch.zeros(2, 4, 4, 4), torch.zeros(2, 1, 4, 4)
    region[..., :2, :] = 1
    errors = Errors(torch.zeros(2, 4, 4, 4), torch.ones(2), guess, torch.zeros(2), torch.full((2, 1, 1, 1), 0.5))
    masked_with_preservation(errors, region, clean, 1.0).backward()
    assert (guess.grad[..., 2:, :] != 0).all() and (guess.grad[..., :2, :] == 0).all()


def test_crops_keep_image_and_mask_aligned_to_the_pixel(pipelines, cases):
    """A frame that shows its own mask: after any window, the drawn region's lesion is what the image shows there."""
    recipe = make("polyp_gen", pipelines["inpaint"], polyp_share=1.0, views=12)
    case = cases[0]
    shown = np.where(case.mask[..., None], 255, 90).astype(np.uint8).repeat(3, 2)
    prepared = prepare(Case("own", shown, case.mask))
    for view in range(12):
        example = recipe._example(prepared, view, numpy_rng("aligned", view))
        if example is not None:
            lesion = (example.image[..., 0] > 172) & example.region
            assert (lesion != (example.lesion & example.region)).mean() < 0.004  # resampled edges


def test_pseudo_masks_follow_the_paper(pipelines):
    recipe = make("polyp_gen", pipelines["inpaint"], polyp_share=0.6)
    lesion = box_mask((24, 20, 40, 44), (64, 64))
    other = box_mask((4, 50, 12, 60), (64, 64))  # another lesion of the same frame
    seen = Seen(np.zeros((64, 64, 3), np.uint8), lesion, lesion | other, np.ones((64, 64), bool), True, 4096.0)
    drawn = [recipe.draw(seen, numpy_rng("bpm", k)) for k in range(200)]
    drawn = [d for d in drawn if d is not None]
    polyps = [d for d in drawn if d[2] == POLYP_PROMPT]
    normals = [d for d in drawn if d[2] == NORMAL_PROMPT]
    assert 0.45 < len(polyps) / len(drawn) < 0.85
    box = bounding_box(dilate(lesion, 0))
    margin = round(15 * 64 / 512)
    wide = box_mask((box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin), (64, 64))
    assert all(not (region & ~wide).any() for region, _, _ in polyps)
    assert all(not (region & (wide | other)).any() and not held.any() for region, held, _ in normals)


def test_cached_latents_are_encoded_once_and_equal():
    cache, calls = LatentCache(), []

    def encode(images):
        calls.append(len(images))
        return images[:, :1] * 0.1234567

    keys, images = torch.tensor([7, 8, 7]), torch.randn(3, 3, 4, 4)
    images[2] = images[0]
    first = cache.get(keys[:2], images[:2], encode)
    second = cache.get(keys, images, encode)
    assert calls == [2] and torch.equal(second[:2], first) and torch.equal(second[2], first[0])
    small = LatentCache(max_bytes=64)
    small.get(torch.arange(8), torch.randn(8, 3, 4, 4), encode)
    assert small.used <= 64


def test_an_unknown_word_is_noticed_once(pipelines, cases, capsys):
    recipe = make("polyp_gen", pipelines["inpaint"])
    for _ in range(2):
        recipe.generate([job(cases[0], prompt="serrated Polyp")])
    assert capsys.readouterr().err.count("serrated") == 2  # once as the word, once in the prompt, in one notice


def test_bad_checkpoints_are_refused_in_one_sentence(pipelines, tmp_path):
    with pytest.raises(UserError, match="takes 4 channels where this recipe needs 9"):
        make("polyp_gen", pipelines["plain"])
    with pytest.raises(UserError, match="takes 9 channels where this recipe needs 4"):
        make("blended_latent", pipelines["inpaint"])
    broken = shutil.copytree(pipelines["inpaint"], tmp_path / "broken")
    shutil.rmtree(broken / "vae")
    with pytest.raises(UserError, match="vae is missing"):
        make("polyp_gen", broken)
    pickled = shutil.copytree(pipelines["inpaint"], tmp_path / "pickled")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (pickled / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="is a pickle.*python -c"):
        make("polyp_gen", pickled)
    with pytest.raises(UserError, match="guidance needs prompt_dropout"):
        from_dict(PolypGenConfig, {"prompt_dropout": 0.0})


def test_guidance_works_in_its_interval_alone(pipelines, cases, monkeypatch):
    asked = []
    for between in ((0.0, 1e9), (0.5, 5.0)):
        recipe = make("polyp_gen", pipelines["inpaint"], steps=8, guided_sigmas=between).eval()
        network = recipe.backbone.network
        monkeypatch.setattr(recipe.backbone, "network", lambda x, *rest, network=network: asked.append(len(x)) or network(x, *rest))
        recipe.generate([job(cases[0])])
    assert asked[:8] == [2] * 8 and asked[8] == asked[-1] == 1 and {1, 2} == set(asked[8:])
    with pytest.raises(UserError, match="the smaller one first"):
        make("polyp_gen", pipelines["inpaint"], guided_sigmas=(3.0, 1.0))


def test_networks_from_scratch_learn_the_text_encoder(first_stage):
    config = from_dict(PolypGenConfig, {"backbone": {"first_stage": str(first_stage)}, "size_px": 64})
    recipe = PolypGen(config)
    assert all(p.requires_grad for p in recipe.backbone.text.parameters())
    assert not any(p.requires_grad for p in recipe.backbone.vae.parameters())
    with torch.device("meta"):
        assert build_backbone(config.backbone, 9, ["polyp"], False).unet.conv_in.in_channels == 9


def test_a_perfect_first_stage_leaves_no_tint(pipelines, cases):
    recipe = make("polyp_gen", pipelines["inpaint"])
    recipe.backbone.vae.encode, recipe.backbone.vae.decode = (lambda x: x), (lambda x: x)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    region = torch.zeros(1, 1, 64, 64)
    region[..., 20:40, 20:40] = 1
    drawn = torch.rand(1, 3, 64, 64)
    assert torch.equal(recipe._decoded(drawn, image, region, torch.ones(1, 1, 64, 64)), drawn)


def test_a_lesion_outside_its_region_is_refused(pipelines, cases):
    recipe = make("polyp_gen", pipelines["inpaint"])
    far = Request(cases[0].name, POLYP, ((40, 40), (80, 40), (80, 80)), 1, lesion=((2, 2), (6, 2), (6, 6)))
    with pytest.raises(UserError, match="lies outside its region"):
        recipe.generate([Job(far, cases[0])])


def test_a_box_that_the_new_region_leaves_out_is_refused(pipelines):
    recipe = make("polyp_gen", pipelines["inpaint"])
    frame = np.full((200, 400, 3), 140, np.uint8)
    boxed = Case("boxed", frame, None, boxes=((60, 60, 120, 120),))
    wide = ((50, 50), (350, 50), (350, 150), (50, 150))
    asked = Request("boxed", POLYP, wide, 1, lesion=((240, 90), (260, 90), (260, 110), (240, 110)))
    with pytest.raises(UserError, match="would lack one"):
        recipe.generate([Job(asked, boxed)])


def test_what_stands_beside_a_controlnet_stays_frozen(pipelines, tmp_path):
    recipe = make("control_inpaint", pipelines["plain"], backbone={"weights": str(pipelines["plain"])})
    recipe.save_pretrained(tmp_path)
    for model in (recipe, load_recipe(tmp_path)):
        assert not any(p.requires_grad for p in model.backbone.unet.parameters())
        assert all(p.requires_grad for p in model.backbone.control.parameters())


def test_architectures_that_read_by_pretrained_weights_ask_for_them():
    with pytest.raises(UserError, match="sd15 reads prompts by pretrained weights"):
        build_backbone(BackboneConfig(architecture="sd15"), 9, ["polyp"], False)


def test_a_narrow_region_has_a_label():
    frame = Case("frame", np.full((256, 320, 3), 120, np.uint8), np.zeros((256, 320), bool))
    for thick in (6, 15, 40):
        band = ((60, 100), (220, 100), (220, 100 + thick), (60, 100 + thick))
        job = Job(Request("frame", POLYP, band, 1), frame)
        view = View.of(job, 1.4, 48)
        label = asked_lesion(job, view)
        assert label.any() and not (label & ~view.region).any()


def test_lora_of_a_controlnet_keeps_the_controlnet(pipelines, cases, tmp_path):
    recipe = train(
        make("control_inpaint", pipelines["plain"], backbone={"weights": str(pipelines["plain"]), "lora_rank": 2}), cases, rate=1e-2
    )
    recipe.save_pretrained(tmp_path)
    again = load_recipe(tmp_path)
    ours, theirs = recipe.backbone.control.state_dict(), again.backbone.control.state_dict()
    assert all(torch.allclose(v, theirs[k]) for k, v in ours.items())


@pytest.mark.parametrize("unheard", [{"rescale_betas_zero_snr": True}, {"trained_betas": [0.1, 0.2]}, {"beta_schedule": "sigmoid"}])
def test_schedules_that_would_be_misread_are_refused(unheard):
    assert diffusion_of({"rescale_betas_zero_snr": False, "trained_betas": None}, None).prediction == "epsilon"
    with pytest.raises(UserError, match="schedule"):
        diffusion_of(unheard, None)


def test_more_steps_than_the_checkpoints_schedule_has_are_refused(pipelines):
    recipe = make("polyp_gen", pipelines["inpaint"])
    times = recipe.diffusion.config.schedule.steps
    recipe.set_steps(times)
    with pytest.raises(UserError, match=f"a schedule of {times} steps can't be walked in {times + 1}"):
        recipe.set_steps(times + 1)
    assert recipe.config.steps == times
    with pytest.raises(UserError, match="can't be walked"):
        make("polyp_gen", pipelines["inpaint"], steps=times + 1)
    make("polyp_gen", pipelines["inpaint"], steps=times + 1, spacing="karras")  # between the schedule's ends there are as many as one likes
