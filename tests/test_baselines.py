"""The untrained baselines: shapes, bounds and what each of them promises."""
import cv2
import numpy as np
import pytest
import torch

from models.baselines import untrained
from models.baselines.untrained import KEY, UNTRAINED, from_linear, luma, to_linear


@pytest.fixture(autouse=True)
def one_opencv_thread():
    """OpenCV's fusion adds up the bracket in the order in which its threads finish."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


@pytest.fixture
def pictures():
    """A smooth scene with some noise, dark, fine and bright, on the 8-bit grid: (3, 3, 40, 56)."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 3, 40), torch.linspace(0, 4, 56), indexing='ij')
    scene = 0.45 + 0.25 * torch.stack((torch.sin(x + y), torch.cos(2 * x), torch.sin(3 * y)))
    scene = (scene + 0.02 * torch.randn(scene.shape, generator=generator)).clamp(0, 1)
    light = to_linear(scene)
    exposed = torch.stack([from_linear((light * 2.0 ** ev).clamp(max=1)) for ev in (-3, 0, 2)])
    return (exposed * 255).round() / 255


@pytest.mark.parametrize('name', UNTRAINED)
def test_map_is_a_residual_of_each_picture_by_itself(name, pictures):
    maps = UNTRAINED[name](pictures)
    assert maps.shape == (3, 1, 40, 56)
    assert torch.isfinite(maps).all() and maps.abs().max() <= 1
    ideal = luma(pictures) + maps
    if name != 'constant':
        assert ideal.min() >= -1e-5 and ideal.max() <= 1 + 1e-5
    for i in range(3):
        assert torch.equal(UNTRAINED[name](pictures[i:i + 1])[0], maps[i])


@pytest.mark.parametrize('name', UNTRAINED)
@pytest.mark.parametrize('value', (0.0, 0.45, 1.0))
def test_flat_pictures_give_finite_maps(name, value):
    maps = UNTRAINED[name](torch.full((1, 3, 32, 33), value))
    assert maps.shape == (1, 1, 32, 33) and torch.isfinite(maps).all()


def test_zero_and_constant_by_hand():
    x = torch.zeros(1, 3, 32, 32)
    x[..., :16] = 0.6
    assert UNTRAINED['zero'](x).abs().max() == 0
    assert torch.allclose(UNTRAINED['constant'](x), torch.tensor(KEY - 0.3))


def test_transfer_function_by_hand_and_there_and_back():
    assert to_linear(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0, 0.214041, 1], abs=1e-6)
    x = torch.linspace(0, 1, 256)
    assert torch.allclose(from_linear(to_linear(x)), x, atol=1e-6)


@pytest.mark.parametrize('name', ('auto-exposure', 'gamma'))
def test_mean_grey_becomes_mid_grey(name, pictures):
    ideal = luma(pictures) + UNTRAINED[name](pictures)
    assert ideal.mean((1, 2, 3)).tolist() == pytest.approx([KEY] * 3, abs=1e-4)


def test_auto_exposure_finds_the_gain_back():
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 64, 64, generator=rng) * 0.5 + 0.2
    x = x + (KEY - luma(x).mean())  # well exposed, not clipped
    dark = from_linear(to_linear(x) / 4)
    assert torch.allclose(untrained.auto_exposure(dark), x, atol=2e-4)
    assert torch.allclose(UNTRAINED['auto-exposure'](dark), luma(x) - luma(dark), atol=2e-4)


def test_auto_exposure_leaves_black_black():
    assert UNTRAINED['auto-exposure'](torch.zeros(1, 3, 32, 32)).abs().max() == 0


def test_histogram_equalisation_flattens_the_histogram(pictures):
    ideal = luma(pictures[:1]) + UNTRAINED['histogram'](pictures[:1])
    assert ideal.mean().item() == pytest.approx(0.5, abs=0.03)
    assert ideal.quantile(0.25).item() == pytest.approx(0.25, abs=0.05)


def test_lime_only_brightens(pictures):
    assert UNTRAINED['lime'](pictures).min() >= -1 / 255
    assert UNTRAINED['lime'](pictures[:1]).mean() > 0.1


def test_lime_solves_its_linear_system():
    rng = np.random.default_rng(0)
    start, right, down = rng.random((5, 6)), rng.random((5, 5)) * 9, rng.random((4, 6)) * 9
    system = np.eye(30)
    index = np.arange(30).reshape(5, 6)
    links = [*zip(index[:, :-1].flat, index[:, 1:].flat, right.flat),
             *zip(index[:-1].flat, index[1:].flat, down.flat)]
    for i, j, w in links:
        system[[i, j], [i, j]] += w
        system[[i, j], [j, i]] -= w
    expected = np.linalg.solve(system, start.ravel()).reshape(5, 6)
    assert untrained._smooth(start, right, down, tolerance=1e-10) == pytest.approx(expected, abs=1e-8)


def test_any_enhancer_becomes_a_baseline(pictures):
    inverted = untrained.enhancer_residual(lambda x: 1 - x)
    assert torch.allclose(inverted(pictures), 1 - 2 * luma(pictures), atol=1e-6)
    same = untrained.enhancer_residual(lambda x: x)
    assert same(pictures).abs().max() == 0
