"""Every shipped configuration is parsed and built, paper sizes on the meta device."""

import pytest
import torch

from polypforge.core.config import from_dict, read_yaml
from polypforge.core.errors import UserError
from polypforge.models.latent_backbone import architecture
from polypforge.training.config import TrainingConfig
from polypforge.workflows.train import PhantomMix
from polypforge.workflows.trainables import build, shipped_config, trainable_names

SHIPPED = [(n, s) for n in trainable_names() for s in ("starter", "paper") if shipped_config(n, s).is_file()]
UNTRAINED = ("copy_paste", "folder", "graft")


@pytest.mark.parametrize(("name", "size"), SHIPPED)
def test_shipped_configs_build(name, size):
    values = read_yaml(shipped_config(name, size))
    assert set(values) <= {"model", "training", "phantom"}
    assert from_dict(TrainingConfig, values["training"]).batch_size > 0
    assert from_dict(PhantomMix, values["phantom"]).frames >= 0
    if name == "folder":
        with pytest.raises(UserError, match="model.path"):
            build(name, values["model"], name)
        return
    with torch.device("meta"):
        model = build(name, values["model"], name)
    assert name in UNTRAINED or sum(p.numel() for p in model.parameters()) > 1e5


def test_every_recipe_of_a_paper_has_both_sizes():
    names = {n for n, s in SHIPPED if s == "paper"}
    assert names >= {
        "polyp_gen",
        "cond_polyp_diff",
        "polyp_ddpm",
        "diffuse_gen",
        "diffaug",
        "blended_latent",
        "control_inpaint",
        "singan_seg",
    }
    assert {n for n, s in SHIPPED if s == "starter"} == set(trainable_names())


@pytest.mark.parametrize(("name", "part", "millions"), [
    ("polyp_ddpm", "unet", 28.45),
    ("cond_polyp_diff", "mask_unet", 113.7),
    ("cond_polyp_diff", "image_unet", 215.2),
    ("diffuse_gen", "unets", 526.6),
    ("polyp_gen", "backbone.unet", 865.9),
    ("diffaug", "backbone.unet", 2567.5),
])  # fmt: skip
def test_paper_sizes_are_within_one_percent(name, part, millions):
    with torch.device("meta"):
        model = build(name, read_yaml(shipped_config(name, "paper"))["model"], name)
    count = sum(p.numel() for p in model.get_submodule(part).parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.01)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UserError, match="choose one of sd15"):
        architecture("sd7")
