"""Downstream segmentation: scores by hand, drawing of batches, the network."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.seeding import numpy_rng
from polypforge.core.types import NORMAL, Case
from polypforge.evaluation.augment import augmented
from polypforge.evaluation.detection.network import LesionDetector, LesionDetectorConfig
from polypforge.evaluation.mixture import Mix, Mixture
from polypforge.evaluation.segmentation import task
from polypforge.evaluation.segmentation.network import LesionSegmenter, LesionSegmenterConfig
from polypforge.evaluation.segmentation.scores import MEASURES, ImageScore, colour_contrast, hausdorff95, score_image, summarise
from polypforge.phantom.render import render

TINY = {"encoder": "tu-resnet10t", "depth": 3, "decoder": [32, 16, 8], "size_px": 32, "loss": "bce_dice"}


def mask(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


def test_measures_of_a_4x4_mask_by_hand():
    truth, found = mask("##..", "##..", "....", "...."), mask("#...", "#...", "#...", "....")
    score = score_image("a", "a", np.full((4, 4, 3), 90, np.uint8), truth, found.astype(np.float32))
    assert (score.true_positive, score.false_positive, score.false_negative, score.true_negative) == (2, 1, 2, 11)
    values = {name: float(measure(score.counts)) for name, measure in MEASURES.items()}
    expected = {"dice": 4 / 7, "iou": 2 / 5, "precision": 2 / 3, "sensitivity": 1 / 2, "false_negative_rate": 1 / 2, "accuracy": 13 / 16}
    assert values == pytest.approx(expected) and score.size == 0.25


def test_micro_and_imagewise_equal_segmentation_models_pytorch():
    rng = np.random.default_rng(0)
    truth, found = rng.random((6, 20, 30)) < 0.3, rng.random((6, 20, 30)) < 0.4
    truth[0] = False
    scores = [
        score_image(str(k), str(k), np.zeros((20, 30, 3), np.uint8), t, f.astype(np.float32))
        for k, (t, f) in enumerate(zip(truth, found, strict=True))
    ]
    stats = smp.metrics.get_stats(torch.from_numpy(found)[:, None].long(), torch.from_numpy(truth)[:, None].long(), mode="binary")
    told, shown = summarise([scores]), [part[1:] for part in stats]  # of theirs, those that show a lesion
    for ours, theirs in (("iou", smp.metrics.iou_score), ("dice", smp.metrics.f1_score), ("sensitivity", smp.metrics.sensitivity)):
        assert told["micro"][ours]["value"] == pytest.approx(float(theirs(*stats, reduction="micro")))
        assert told["imagewise"][ours]["value"] == pytest.approx(float(theirs(*shown, reduction="micro-imagewise")), abs=1e-6)


def test_hausdorff_distance_in_shares_of_the_diagonal():
    a, b = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    a[5:15, 5:15] = True
    b[5:15, 10:20] = True
    assert hausdorff95(a, a) == 0 and hausdorff95(a, b) == pytest.approx(5 / 50)
    assert hausdorff95(a, np.zeros_like(a)) == 1 and hausdorff95(np.zeros_like(a), np.zeros_like(a)) == 0


def test_empty_truth_counts_as_right_only_when_nothing_is_found():
    empty = np.zeros((4, 4), bool)
    picture = np.full((4, 4, 3), 90, np.uint8)
    right = score_image("a", "a", picture, empty, np.zeros((4, 4), np.float32))
    wrong = score_image("a", "a", picture, empty, np.ones((4, 4), np.float32))
    assert right.dice == 1 and wrong.dice == 0 and np.isnan(right.contrast)


def test_kinds_of_lesions_are_told_apart_and_groups_widen_the_interval():
    counts = dict(false_positive=0, true_negative=100, hausdorff95=0.0)
    rows = [
        ImageScore(
            str(k),
            f"g{k // 2}",
            50 if k < 10 else 10,
            false_negative=0 if k < 10 else 40,
            size=0.01 if k < 10 else 0.2,
            contrast=20.0,
            **counts,
        )
        for k in range(20)
    ]
    told = summarise([rows])
    assert told["by"]["small lesions"]["dice"] == 1 and told["by"]["large lesions"]["dice"] < 0.5 and told["groups"] == 10
    alone = summarise([[ImageScore(**(r.to_json() | {"group": r.case})) for r in rows]])

    def width(s):
        low, high = s["imagewise"]["dice"]["interval"]
        return high - low

    assert width(told) > 1.3 * width(alone)
    with pytest.raises(ValueError, match="nothing"):
        summarise([])


def test_contrast_is_the_colour_step_at_the_lesion():
    picture = np.full((60, 60, 3), (150, 90, 80), np.uint8)
    lesion = np.zeros((60, 60), bool)
    lesion[20:40, 20:40] = True
    assert colour_contrast(picture, lesion) < 0.5
    picture[lesion] = (210, 90, 80)
    assert colour_contrast(picture, lesion) > 10


@pytest.mark.parametrize(("mix", "expected"), [
    (Mix("pool", 1), 20 / 30), (Mix("share", 0.25), 0.25), (Mix("share", 0.0), 0.0), (Mix("add", 2, 0.5), 0.5), (Mix("replace", 2, 0.4), 0.4),
])  # fmt: skip
def test_a_mixture_draws_in_the_stated_shares(mix, expected):
    real, made = [f"r{k}" for k in range(10)], [f"s{k}" for k in range(20)]
    children = {k: [f"s{2 * k}", f"s{2 * k + 1}"] for k in range(10)}
    pool = Mixture(real, made, mix, children)
    rng = np.random.default_rng(0)
    drawn = [pool.draw(rng) for _ in range(4000)]
    assert np.mean([d.startswith("s") for d in drawn]) == pytest.approx(expected, abs=0.03)
    if mix.mode == "replace":
        assert set(drawn) == set(real) | set(made)


def test_replace_takes_only_the_first_of_the_children():
    pool = Mixture(["r"], ["a", "b"], Mix("replace", 1, 1.0), {0: ["a", "b"]})
    rng = np.random.default_rng(0)
    assert {pool.draw(rng) for _ in range(50)} == {"a"}
    assert pool.drawable() == 1 and Mixture(["r"], ["a", "b"], Mix("add", 5), {0: ["a", "b"]}).drawable() == 2
    assert Mixture(["r"], ["a", "b"], Mix("share", 0.5)).drawable() == 2 and Mixture(["r"], ["a"], Mix("share", 0.0)).drawable() == 0
    assert [Mix("pool", 0.5).pooled(40), Mix("pool", 1000).pooled(40)] == [20, 1000]
    with pytest.raises(ValueError, match="mix"):
        Mix("stir")
    with pytest.raises(ValueError, match="whole numbers"):
        Mix("add", 0.5)


@pytest.mark.parametrize(("mix", "synthetic", "normal"), [
    (Mix("share", 0.0), 0.0, 0.25), (Mix("share", 0.5), 0.5, 0.125), (Mix("pool", 1), 10 / (10 + 40 / 3), 0.25 * 40 / 70),
    (Mix("replace", 1, 1.0), 0.75, 0.25),
])  # fmt: skip
def test_many_frames_without_lesion_crowd_nothing_out(mix, synthetic, normal):
    real, made = [f"r{k}" for k in range(10)] + [f"n{k}" for k in range(90)], [f"s{k}" for k in range(10)]
    pool = Mixture(real, made, mix, {k: [made[k]] for k in range(10)}, normal=90, normal_share=0.25)
    rng = np.random.default_rng(0)
    drawn = [pool.draw(rng) for _ in range(4000)]
    assert np.mean([d.startswith("s") for d in drawn]) == pytest.approx(synthetic, abs=0.03)
    assert np.mean([d.startswith("n") for d in drawn]) == pytest.approx(normal, abs=0.03)
    assert len({d for d in drawn if d.startswith("n")}) > 80


@pytest.mark.parametrize(("normal", "share", "expected"), [(1, 0.25, 1 / 11), (5, 1.0, 5 / 15), (5, 0.0, 0.0)])
def test_few_frames_without_lesion_come_as_often_as_others(normal, share, expected):
    pool = Mixture(["r"] * 10 + ["n"] * normal, normal=normal, normal_share=share)
    rng = np.random.default_rng(0)
    assert np.mean([pool.draw(rng) == "n" for _ in range(4000)]) == pytest.approx(expected, abs=0.025)
    alone = Mixture(["n"] * normal, normal=normal, normal_share=share)
    assert alone.draw(rng) == "n"
    with pytest.raises(ValueError, match="normal"):
        Mixture(["n"], normal=2)


@pytest.mark.parametrize("kind", ["none", "flips", "strong"])
def test_augmentation_moves_image_and_mask_together(kind):
    rng = np.random.default_rng(3)
    picture, label = np.full((48, 48, 3), 30, np.uint8), np.zeros((48, 48), bool)
    label[14:30, 20:40] = True
    picture[label] = 220
    for _ in range(10):
        image, (moved,) = augmented(picture, [label], kind, rng)
        assert image.shape == picture.shape and image.dtype == np.uint8 and moved.dtype == bool
        if moved.any() and not moved.all():
            bright = image.astype(float).mean(-1)
            assert bright[moved].mean() > bright[~moved].mean() + 40


def test_the_segmenter_learns_saves_and_predicts_at_the_frames_own_size(tmp_path):
    torch.manual_seed(0)
    model = LesionSegmenter(from_dict(LesionSegmenterConfig, TINY))
    cases = [render(50 + k, 96, polyps=1) for k in range(4)]
    pool = model.prepare(cases)
    pool.augment = "flips"
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for step in range(25):
        loss, _ = model.loss(model.training_batch(pool, 8, numpy_rng(step)), torch.Generator())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    held = model.validation_losses(model.validation_batch(pool, 10, numpy_rng(0)), 0)
    assert 0 <= held["1 - Dice"] <= 1
    model.save_pretrained(tmp_path)
    loaded = LesionSegmenter.load_pretrained(tmp_path)
    frames = [cases[0].image, np.zeros((50, 70, 3), np.uint8)]
    chances = loaded.predict(frames)
    assert [c.shape for c in chances] == [(96, 96), (50, 70)] and 0 <= chances[0].min() <= chances[0].max() <= 1
    assert np.abs(chances[0] - model.predict(frames)[0]).max() < 0.02


def test_a_segmenter_sets_out_from_all_weights_of_another_one(tmp_path):
    first = LesionSegmenter(from_dict(LesionSegmenterConfig, TINY))
    first.save_pretrained(tmp_path / "first")
    second = LesionSegmenter(from_dict(LesionSegmenterConfig, TINY | {"weights": str(tmp_path / "first")}))
    assert all(torch.equal(a, b) for a, b in zip(first.net.state_dict().values(), second.net.state_dict().values(), strict=True))
    assert second.config.weights == ""  # what is saved stands for itself
    with pytest.raises(UserError, match="of another network"):
        LesionSegmenter(LesionSegmenterConfig(encoder="resnet18", weights=str(tmp_path / "first")))
    with pytest.raises(UserError, match="no starter weights"):
        LesionSegmenter(LesionSegmenterConfig(encoder="resnet18", weights="starter:nothing"))


def test_frames_without_lesion_need_no_mask():
    frame = LesionSegmenter(from_dict(LesionSegmenterConfig, TINY)).frame(Case("a", np.zeros((9, 9, 3), np.uint8), None, label=NORMAL))
    assert not frame.mask.any()


@pytest.mark.parametrize("architecture", ["unetplusplus", "fpn", "deeplabv3plus", "segformer"])
def test_the_papers_architectures_can_be_built(architecture):
    model = LesionSegmenter(LesionSegmenterConfig(architecture=architecture, encoder="resnet18", size_px=64)).eval()
    assert model.predict([np.zeros((64, 64, 3), np.uint8)])[0].shape == (64, 64)


@pytest.mark.parametrize("architecture", ["fpn", "pspnet"])
def test_architectures_that_answer_in_another_size_are_enlarged(architecture):
    model = LesionSegmenter(LesionSegmenterConfig(architecture=architecture, encoder="resnet18", size_px=64, depth=4, decoder=(8, 8, 8, 8)))
    assert model.logits(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 64, 64)


@pytest.mark.parametrize(
    ("encoder", "weights"), [("tu-resnet10t", "runs/no-such-run"), ("resnet18", "runs/gone"), ("tu-resnet10t", "imagenett")]
)
def test_mistyped_weights_are_never_taken_for_imagenets(encoder, weights):
    with pytest.raises(UserError, match="no such file or folder"):
        LesionSegmenter(LesionSegmenterConfig(encoder=encoder, weights=weights))
    with pytest.raises(UserError, match="no such file or folder"):
        LesionDetector(LesionDetectorConfig(encoder=encoder, weights=weights))


def test_bad_settings_and_cases_are_refused(tmp_path):
    for bad, what in (
        ({"architecture": "vnet"}, "architecture"),
        ({"loss": "hinge"}, "loss"),
        ({"size_px": 50}, "multiple"),
        ({"decoder": [8]}, "widths"),
    ):
        with pytest.raises(UserError, match=what):
            from_dict(LesionSegmenterConfig, bad)
    with pytest.raises(UserError, match="no mask"):
        LesionSegmenter(from_dict(LesionSegmenterConfig, TINY)).prepare([Case("a", np.zeros((9, 9, 3), np.uint8), None, ((1, 1, 4, 4),))])
    with pytest.raises(UserError, match="weights"):
        LesionSegmenter(LesionSegmenterConfig(encoder="resnet18", weights=str(tmp_path / "none.safetensors")))


def test_frames_without_lesion_do_not_flatter_a_network_that_finds_nothing():
    truth = np.zeros((40, 40), bool)
    truth[10:30, 10:30] = True
    picture, nothing = np.full((40, 40, 3), 120, np.uint8), np.zeros((40, 40), np.float32)
    rows = [score_image(f"p{k}", f"p{k}", picture, truth, truth * np.float32(k < 4)) for k in range(8)]
    rows += [score_image(f"n{k}", f"n{k}", picture, truth & False, nothing) for k in range(30)]
    told = summarise([rows])
    assert told["imagewise"]["dice"]["value"] == 0.5 == told["imagewise"]["sensitivity"]["value"] and told["n"] == 38
    assert told["by"]["without lesion"] == {"n": 30, "dice": 1.0, "interval": (1.0, 1.0)}
    statistic = task.statistic([[r.to_json() for r in rows]])
    assert statistic(np.ones(38)) == pytest.approx([0.5])
    with pytest.raises(ValueError, match="no image shows a lesion"):
        summarise([rows[8:]])


def test_few_witnesses_bear_no_interval():
    truth = np.zeros((40, 40), bool)
    truth[10:30, 10:30] = True
    picture = np.full((40, 40, 3), 120, np.uint8)
    rows = [score_image(f"p{k}", f"video {k % 5}", picture, truth, np.roll(truth, k, 0).astype(np.float32)) for k in range(10)]
    told = summarise([rows])
    assert told["imagewise"]["dice"]["interval"] is None is told["micro"]["dice"]["interval"] and told["groups"] == 5
