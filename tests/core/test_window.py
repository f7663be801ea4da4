import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polypforge.core.window import Window, around_mask

windows = st.builds(
    Window, st.floats(40, 120), st.floats(40, 120), st.floats(30, 200), st.sampled_from([0.0, 90.0, 180.0, 270.0, 33.0]), st.booleans()
)


def painted(mask):
    """An image that is white exactly on the mask."""
    return np.repeat((mask * 255).astype(np.uint8)[..., None], 3, 2)


@settings(max_examples=40, deadline=None)
@given(windows)
def test_image_and_mask_take_the_same_transform_to_the_pixel(window):
    mask = np.zeros((160, 160), bool)
    mask[50:90, 60:130] = True
    image = window.crop(painted(mask), 64)
    assert ((image[..., 0] >= 128) == window.crop_mask(mask, 64)).all()


def test_identity_window_is_exact():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert (Window(31.5, 31.5, 64).crop(image, 64) == image).all()


@pytest.mark.parametrize("angle", [0.0, 90.0, 33.0])
@pytest.mark.parametrize("flip", [False, True])
def test_uncrop_undoes_crop(angle, flip):
    image = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    smooth = (image // 8 * 0 + np.linspace(0, 255, 160)[None, :, None]).astype(np.uint8)
    window = Window(80, 80, 96, angle, flip)
    back = window.uncrop(window.crop(smooth, 96), np.s_[0:160, 0:160])
    inner = np.s_[60:100, 60:100]
    assert np.abs(back[inner].astype(int) - smooth[inner]).max() <= 3
    assert (window.uncrop(window.crop(smooth, 96), np.s_[70:90, 60:100]) == back[70:90, 60:100]).all()


def test_shrinking_averages_instead_of_aliasing():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(Window(127.5, 127.5, 256).crop(stripes, 32).astype(int) - 127).max() <= 2


def test_around_mask():
    mask = np.zeros((100, 100), bool)
    mask[20:40, 30:70] = True
    assert around_mask(mask, 2.0, 10) == Window(49.5, 29.5, 80.0)
    assert around_mask(mask, 2.0, 200).side_px == 200
