import pytest
import torch

from polypforge.recipes.forge.texture_loss import TILE_PX, _places, _tiles, texture_error

SIZE = 4 * TILE_PX


@pytest.fixture
def region():
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[:, :, 20:100, 16:110] = 1
    return mask


@pytest.fixture
def real():
    return 0.1 * torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def error(made, real, region, seed=1):
    return float(texture_error(torch.where(region > 0, made, real), real, region, 4, torch.Generator().manual_seed(seed)))


def test_the_same_texture_in_another_arrangement_is_as_good_and_a_smooth_one_is_not(real, region):
    other = 0.1 * torch.randn(real.shape, generator=torch.Generator().manual_seed(5))
    assert error(real, real, region) == 0
    assert error(other, real, region) < 0.2
    assert error(torch.zeros_like(real), real, region) > 1.6
    assert error(0.5 * real, real, region) == pytest.approx(1.0, abs=0.2)
    pixels = (other - real).abs().mean() / real.abs().mean()
    assert pixels > 1  # an error in pixels calls it worse than a smooth one


def test_structure_counts_not_only_strength(real, region):
    """Stripes and noise of the same variance differ."""
    stripes = torch.zeros_like(real)
    stripes[..., ::4], stripes[..., 2::4] = 0.1, -0.1
    assert error(stripes * real.std() / stripes.std(), real, region) > 3 * error(real.flip(-1), real, region)


def test_a_smooth_drawing_of_faint_texture_is_as_wrong_as_one_of_strong_texture(real, region):
    flat = torch.zeros_like(real)
    assert error(flat, 0.2 * real, region) == pytest.approx(error(flat, real, region), rel=0.2)


def test_only_the_region_is_changed_and_plain_colour_costs_no_texture_inside(real, region):
    made = torch.zeros_like(real, requires_grad=True)
    texture_error(torch.where(region > 0, made, real), real, region, 4, torch.Generator().manual_seed(1)).backward()
    inside = region.expand_as(real) > 0
    assert made.grad[inside].abs().sum() > 0 and made.grad[~inside].abs().max() == 0
    everywhere = torch.ones_like(region)
    everywhere[..., :8] = everywhere[..., -8:] = everywhere[:, :, :8] = everywhere[:, :, -8:] = 0
    border_only = error(real + 0.05, real, everywhere)
    assert border_only < 0.2 * error(torch.zeros_like(real), real, everywhere)  # the step at the border is all it sees


def test_training_on_it_gives_texture_its_strength(real, region):
    made = torch.zeros_like(real, requires_grad=True)
    optimizer = torch.optim.Adam([made], 0.02)
    generator = torch.Generator().manual_seed(0)
    start = error(made.detach(), real, region)
    noise = 0.01 * torch.randn(real.shape, generator=generator)
    for _ in range(40):
        optimizer.zero_grad()
        texture_error(torch.where(region > 0, made + noise, real), real, region, 4, generator).backward()
        optimizer.step()
    assert error((made + noise).detach(), real, region) < 0.5 * start


def test_nothing_in_the_region_is_no_error(real):
    assert error(torch.zeros_like(real), real, torch.zeros(2, 1, SIZE, SIZE)) == 0


def test_a_grid_of_patches_costs_most_where_it_is_looked_for(real, region):
    """Borders of 4-pixel patches: the same marks at random places are less of an error than on the grid."""
    grid, scattered = real.clone(), real.clone()
    marks = 0.15 * torch.ones(SIZE)
    grid[..., ::4] += marks[:, None]
    columns = torch.randperm(SIZE, generator=torch.Generator().manual_seed(2))[: SIZE // 4]
    scattered[..., columns] += marks[:, None]
    places = [_places(x, 4).mean((0, 1, 3)) for x in (grid - real, scattered - real)]
    assert places[0].std() > 3 * places[1].std()
    assert error(grid, real, region) > error(scattered, real, region) > 0


def test_pixels_are_sorted_into_tiles_and_into_places_of_a_patch():
    x = torch.arange(64 * 64.0).view(1, 1, 64, 64)
    tiles, places = _tiles(x), _places(x, 4)
    assert tiles.shape == (1, 1, 4, 1024) and tiles[0, 0, 1, :2].tolist() == [32, 33] and tiles[0, 0, 2, 0] == 32 * 64
    assert places.shape == (1, 1, 16, 256) and places[0, 0, 1, :3].tolist() == [1, 5, 9] and places[0, 0, 4, 0] == 64
