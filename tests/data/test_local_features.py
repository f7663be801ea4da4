import numpy as np

from polypforge.data.local_features import local_features, mirrored_features
from polypforge.phantom.render import render


def test_features_of_the_mirror_image_are_known_without_looking():
    image = np.ascontiguousarray(render(3, 320).image[..., 1])
    everywhere = np.ones(image.shape, bool)
    points, descriptors = local_features(image, everywhere, 200, 0.004)
    seen_points, seen = local_features(np.ascontiguousarray(image[:, ::-1]), everywhere, 200, 0.004)
    told_points, told = mirrored_features(points, descriptors, image.shape[1])
    assert told.flags.c_contiguous and told.dtype == np.float32
    distance = np.linalg.norm(told_points[:, None] - seen_points[None], axis=-1)
    twin = np.where(distance < 1, told @ seen.T, -1).max(1)
    assert len(points) > 50
    assert np.mean(twin > 0.98) > 0.9
    near, partner = (told @ seen.T).max(1), (told @ seen.T).argmax(1)
    sure = near > 0.98
    assert np.abs(np.median(seen_points[partner[sure]] - told_points[sure], axis=0)).max() < 0.1
    unchanged = np.where(distance < 1, descriptors @ seen.T, -1).max(1)
    assert np.mean(unchanged > 0.98) < 0.05  # it isn't that any descriptor would do
    back_points, back = mirrored_features(told_points, told, image.shape[1])
    assert np.array_equal(back, descriptors) and np.allclose(back_points, points, atol=1e-4)


def test_no_features_have_no_mirror_image():
    points, descriptors = local_features(np.zeros((64, 64), np.uint8), np.ones((64, 64), bool), 50, 0.004)
    assert [a.shape for a in mirrored_features(points, descriptors, 64)] == [(0, 2), (0, 128)]
