"""Distances of feature sets: known answers, the null, collapse, other implementations."""

import numpy as np
import pytest
import torch
from torch import nn

from polypforge.core.images import read_image, write_png
from polypforge.core.intervals import half_sample_interval
from polypforge.evaluation.images.frechet import Moments, frechet, frechet_distance, frechet_infinity, moments
from polypforge.evaluation.images.inception_score import inception_score
from polypforge.evaluation.images.kernel import cmmd, kid
from polypforge.evaluation.images.manifold import manifold_measures
from polypforge.evaluation.images.sliced import sliced_wasserstein
from polypforge.evaluation.measures import compare_features
from polypforge.features import load_encoder
from polypforge.features.inception import FidInception, inception_network


def cloud(n, width=8, shift=0.0, scale=1.0, seed=0):
    return np.random.default_rng(seed).normal(shift, scale, (n, width)).astype(np.float32)


def test_the_frechet_distance_of_two_gaussians():
    a = Moments(10, np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    b = Moments(10, np.array([3.0, 0.0, 4.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(25 + 1 + 0 + 4)  # |m|^2 + sum (sqrt a - sqrt b)^2
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = [Moments(10, turn @ m.mean, turn @ m.covariance @ turn.T) for m in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(30)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_few_and_many_rows_give_one_distance():
    a, b = cloud(40, 30, seed=1), cloud(50, 30, 0.4, 1.5, seed=2)  # more than 2 x 30 together: by moments
    by_rows = frechet(a[:25], b[:30])  # fewer: by products of rows
    assert by_rows == pytest.approx(frechet_distance(moments(a[:25]), moments(b[:30])), rel=1e-6)
    assert frechet(a, b) == pytest.approx(frechet_distance(moments(a), moments(b)), rel=1e-9)
    chunked = moments(np.concatenate([a] * 200))
    assert np.allclose(chunked.mean, a.mean(0), atol=1e-6) and np.allclose(
        chunked.covariance, np.cov(np.concatenate([a] * 200).T), atol=1e-5
    )


def test_the_limit_lies_below_the_distance_and_near_the_truth():
    a, b = cloud(4000, 6, seed=3), cloud(300, 6, seed=4)
    assert abs(frechet_infinity(a, b)) < frechet(a, b)
    with pytest.raises(ValueError, match="50"):
        frechet_infinity(a, b[:20])


def test_kid_is_unbiased_under_the_null_and_sees_a_shift():
    values = [kid(cloud(24, seed=2 * k), cloud(24, seed=2 * k + 1)) for k in range(120)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert kid(cloud(60, shift=1.0), cloud(60, seed=9)) > 5 * np.std(values)
    with pytest.raises(ValueError, match="two"):
        kid(cloud(1), cloud(5))


def test_kid_and_fid_equal_other_implementations():
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = cloud(90, 16, seed=5), cloud(90, 16, 0.3, 1.2, seed=6)
    settings = {"kid_subsets": 1, "kid_subset_size": 90, "kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None,
                "kid_kernel_poly_coef0": 1, "rng_seed": 0, "verbose": False}  # fmt: skip
    theirs = fidelity.kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), **settings)
    assert kid(a, b) == pytest.approx(theirs[fidelity.KEY_METRIC_KID_MEAN], rel=1e-4)
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet(a, b) == pytest.approx(fid, rel=1e-4)


def test_cmmd_is_zero_for_one_set_and_follows_its_formula():
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (cloud(12, 5), cloud(9, 5, 0.5, seed=1)))
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)

    def mean(x, y):
        return np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 200).mean()

    assert cmmd(a, b) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-4)


def test_collapse_gives_precision_without_recall_and_noise_the_reverse():
    real = cloud(400, 4)
    collapsed = real[:1] + cloud(200, 4, scale=0.01, seed=1)
    found = manifold_measures(real, collapsed)
    assert found["precision"] > 0.95 and found["recall"] < 0.05 and found["coverage"] < 0.1
    spread = manifold_measures(real, cloud(200, 4, scale=6.0, seed=2))
    assert spread["precision"] < 0.3 and spread["recall"] > 0.5
    same = manifold_measures(real, cloud(400, 4, seed=3))
    assert min(same.values()) > 0.8
    with pytest.raises(ValueError, match="more than 5"):
        manifold_measures(real[:5], real)


def test_the_inception_score_of_certain_and_of_blind_predictions():
    sure = np.full((200, 10), -50.0, np.float32)
    sure[np.arange(200), np.arange(200) % 10] = 50
    assert inception_score(sure, splits=1)[0] == pytest.approx(10)
    assert inception_score(np.zeros((50, 10), np.float32))[0] == pytest.approx(1)


def test_sliced_wasserstein_tells_blur_at_the_fine_level():
    import cv2

    rng = np.random.default_rng(0)
    sharp = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(24)]
    more = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(24)]
    smooth = [cv2.resize(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC) for _ in range(24)]
    same, other = sliced_wasserstein(sharp, more), sliced_wasserstein(sharp, smooth)
    assert list(same) == ["64", "32", "16", "mean"] and other["64"] > 2 * same["64"]
    with pytest.raises(ValueError, match="power of two"):
        sliced_wasserstein([s[:48, :48] for s in sharp], more)


def test_half_sample_intervals_cover_at_the_stated_rate():
    """Of a difference of means, whose truth is known."""
    hits, rng = 0, np.random.default_rng(0)
    for k in range(200):
        a, b = rng.normal(0, 1, 60), rng.normal(0.5, 2, 80)
        low, high = half_sample_interval(
            b.mean() - a.mean(), lambda i, j, a=a, b=b: b[j].mean() - a[i].mean(), (np.arange(60), np.arange(80)), seed=k
        )
        hits += low <= 0.5 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_pictures_of_one_frame_are_one_witness():
    """A thousand cases made from twenty frames say what twenty say: the interval must cover all the same."""
    hits, rng, made_from = 0, np.random.default_rng(0), np.repeat(np.arange(20), 10)
    for k in range(200):
        a, b = rng.normal(0, 1, 60), 0.5 + rng.normal(0, 1, 20)[made_from] + rng.normal(0, 0.1, 200)
        low, high = half_sample_interval(
            b.mean() - a.mean(), lambda i, j, a=a, b=b: b[j].mean() - a[i].mean(), (np.arange(60), made_from), seed=k
        )
        hits += low <= 0.5 <= high
    assert 0.90 <= hits / 200 <= 0.99
    one_video = np.repeat(np.arange(8), [60, 9, 9, 9, 9, 9, 9, 9])  # whose frames are in nearly every half
    for groups in (made_from[:30], one_video):
        with pytest.raises(ValueError, match="6 groups in each set, and none"):
            half_sample_interval(0.0, lambda i, j: 0.0, (np.arange(60), groups))
    clustered = {
        f.measure: f for f in compare_features(cloud(60), cloud(40, seed=1), "lesion", "n", groups=(np.arange(60), np.arange(40) % 3))
    }
    assert clustered["kid"].value is not None and clustered["kid"].interval is None


def test_every_figure_says_n_and_too_few_is_said_not_computed():
    found = {f.measure: f for f in compare_features(cloud(60), cloud(40, seed=1), "lesion", "some network (area to 8)")}
    assert found["frechet"].real == 60 and found["frechet"].made == 40
    assert found["frechet"].interval[0] < found["frechet"].value < found["frechet"].interval[1]
    assert found["precision"].interval[1] <= 1 and "frechet_infinity" not in found
    few = {f.measure: f for f in compare_features(cloud(60), cloud(6, seed=1), "lesion", "some network")}
    assert few["frechet"].value is None and "KID" in few["frechet"].note
    assert few["kid"].value is not None and few["kid"].interval is None and few["precision"].value is None


def test_fid_inception_equals_torch_fidelity_with_the_same_weights(tmp_path):
    """Whole path: resizing, network, distance."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    from torchvision.models.inception import BasicConv2d

    torch.manual_seed(0)
    net = inception_network()
    for block in net.modules():
        if isinstance(block, BasicConv2d):
            nn.init.kaiming_normal_(block.conv.weight)
            block.bn.running_mean.normal_(0, 0.1)
            block.bn.running_var.uniform_(0.5, 2)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    theirs = fidelity.FeatureExtractorInceptionV3("test", ["2048", "logits_unbiased"], str(tmp_path / "weights.pth"))
    ours = load_encoder(f"fid_inception:{tmp_path / 'weights.pth'}")
    images = [np.random.default_rng(k).integers(0, 255, (90, 120, 3), dtype=np.uint8) for k in range(6)]
    with torch.inference_mode():
        features, logits = theirs(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
        own = ours.vector(torch.stack([ours.look(i) for i in images]))
        assert torch.allclose(own, features, rtol=1e-3, atol=1e-4 * float(features.abs().max()))
        assert torch.allclose(ours.logits(own), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    assert frechet(own[:3].numpy(), own[3:].numpy()) == pytest.approx(frechet(features[:3].numpy(), features[3:].numpy()), rel=1e-3)


def test_clean_resizing_and_both_distances_equal_clean_fid(tmp_path, phantoms):
    """From folders of files of several sizes, with one random network for both; few features, so that covariances have full rank."""
    clean_fid = pytest.importorskip("cleanfid.fid")
    torch.manual_seed(0)
    encoder = FidInception(inception_network(), "clean")
    for name, cases in (("a", phantoms[:6]), ("b", phantoms[6:])):
        for k, case in enumerate(cases * 2):
            write_png(tmp_path / name / f"{k:02d}.png", case.image[: 150 - 5 * k, 3 * k :])

    def few(image: torch.Tensor) -> torch.Tensor:
        return encoder.vector(image)[:, :8]

    theirs = [
        clean_fid.get_folder_features(str(tmp_path / n), lambda x: few(x / 127.5 - 1), num_workers=0, batch_size=6, device="cpu", verbose=False)
        for n in "ab"
    ]  # fmt: skip
    with torch.inference_mode():
        ours = [np.concatenate([few(encoder.look(read_image(f))[None]).numpy() for f in sorted((tmp_path / n).iterdir())]) for n in "ab"]
    assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert frechet(*ours) == pytest.approx(clean_fid.fid_from_feats(*theirs), rel=1e-3)
    assert kid(*ours) == pytest.approx(clean_fid.kernel_distance(*theirs, num_subsets=1), rel=1e-3)


def test_missing_weights_of_inception_are_named_with_their_hash(monkeypatch, tmp_path):
    from polypforge.core.errors import UserError
    from polypforge.features import load_encoder

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"weights-inception-2015-12-05-6726825d\.pth is missing.*6726825d"):
        load_encoder("fid_inception")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"not it")
    with pytest.raises(UserError, match="damaged"):
        load_encoder("fid_inception")


def test_the_random_network_is_the_same_everywhere():
    from polypforge.features import load_encoder

    net = load_encoder("random_vgg")
    picture = np.full((50, 60, 3), 128, np.uint8)
    picture[10:30, 20:40] = (200, 80, 60)
    vector = net.vector(net.look(picture)[None])[0]
    assert vector.shape == (64,) and vector[:3].tolist() == pytest.approx([-0.830662, 0.732411, -0.959017], rel=1e-3)


def test_lpips_follows_its_definition_with_the_published_weights():
    """Against torchmetrics' own module with the same (random) VGG16 and the weights that it ships."""
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    from polypforge.evaluation.images.perceptual import linear_weights, perceptual_distance, unit_layers
    from polypforge.features.classic import TorchvisionEncoder

    torch.manual_seed(0)
    theirs = lpips._LPIPS(net="vgg", pnet_rand=True, pretrained=True).eval()
    names = {f"features.{k.split('.', 1)[1]}": v.contiguous() for k, v in theirs.net.state_dict().items()}
    from torchvision.models import vgg16

    whole = vgg16(weights=None).state_dict() | names
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polypforge.features.classic.load_file", lambda path: whole)
        ours = TorchvisionEncoder("vgg16", None).eval()
    a, b = (torch.rand(2, 3, 64, 64) * 2 - 1 for _ in range(2))
    with torch.inference_mode():
        expected = theirs(a, b).flatten()
        found = perceptual_distance(unit_layers(ours, a), unit_layers(ours, b), linear_weights())
    assert torch.allclose(found, expected, rtol=1e-3)
