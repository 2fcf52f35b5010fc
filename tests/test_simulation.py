import pytest
import torch
from PIL import Image

from datasets.photographs import list_images
from datasets.simulation import (CameraCurve, SimulationConfig, draw_kinds, expose, exposure_field, jpeg_artifacts, quantise, random_curve, scene_light,
                                 simulate)
from exposure import heatmap
from models.grey import luma


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=8, size=40, seed=0):
    """Random pictures with large and small structure, black and clipped white pixels among them."""
    g = generator(seed)
    coarse = torch.nn.functional.interpolate(torch.rand(n, 3, 5, 5, generator=g) * 1.6 - 0.3, size=(size, size), mode='bicubic')
    return quantise(coarse + torch.randn(n, 3, size, size, generator=g) * 0.05)


def double(curve):
    return CameraCurve(*(t.double() for t in vars(curve).values()))


def test_curve_is_inverted_exactly():
    curve = double(random_curve(200, SimulationConfig(), generator()))
    y = torch.linspace(0, 1, 256, dtype=torch.float64).expand(200, 3, 1, 256)
    assert (curve.to_display(curve.to_light(y)) - y).abs().max() < 1e-6
    light = curve.to_light(y)
    assert (light.diff(dim=-1) > 0).all()  # strictly monotone
    assert torch.allclose(curve.to_light(torch.ones_like(y[..., :1])), curve.black + (1 - curve.black) * curve.white)


def test_up_and_down_returns_the_light():
    curve = random_curve(8, SimulationConfig(), generator(1))
    light = scene_light(pictures(), curve, generator(2))
    assert (light * 2.0 ** 1 * 2.0 ** -1 - light).abs().max() <= 1e-6


def test_ev_zero_returns_the_reference():
    x = pictures(200, 24)
    curve = random_curve(200, SimulationConfig(), generator(3))
    assert torch.equal(quantise(expose(x, 0.0, curve, generator(4), headroom=2.0)), x)


def test_more_exposure_is_never_darker():
    x = pictures(200, 24)
    curve = random_curve(200, SimulationConfig(), generator(5))
    frames = [quantise(expose(x, float(ev), curve, generator(6), headroom=1.5)) for ev in range(-4, 5)]
    for dark, bright in zip(frames, frames[1:]):
        assert (bright >= dark).all()


def test_headroom_separates_clipped_pixels():
    x = torch.ones(1, 3, 32, 32)
    curve = random_curve(1, SimulationConfig(), generator(7))
    dark = quantise(expose(x, -3.0, curve, generator(8), headroom=2.5))
    assert dark.min() < dark.max() < 1  # the picture's maximum no longer tells the exposure


def test_seed_gives_the_same_batch():
    x = pictures()
    a, ev_a = simulate(x, generator(9))
    b, ev_b = simulate(x, generator(9))
    c, _ = simulate(x, generator(10))
    assert torch.equal(a, b) and torch.equal(ev_a, ev_b) and not torch.equal(a, c)


def test_simulated_pictures_are_eight_bit():
    image, ev = simulate(pictures(32), generator(11))
    assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1
    assert torch.allclose(image * 255, (image * 255).round(), atol=1e-3)
    assert ev.shape == (32,) and ev.abs().max() <= 4


def test_unchanged_share():
    x = pictures(64, 16)
    image, ev = simulate(x, generator(12), SimulationConfig(unchanged=1.0))
    assert torch.equal(image, x) and (ev == 0).all()


def test_protocol_has_one_exposure_per_picture():
    config = SimulationConfig.protocol()
    assert (config.mixed, config.cast, config.colour, config.noise, config.jpeg) == (0, 0, 0, 0, 0)


def test_saturation_leaves_the_grey():
    x, off = pictures(16), dict(ev=(0, 0), unchanged=0, mixed=0, cast=0, noise=0, jpeg=0, black=(0, 0), headroom=(0, 0))
    pale, _ = simulate(x, generator(15), SimulationConfig(**off, colour=1, saturation=(0, 0.5)))
    assert (luma(pale) - luma(x)).abs().max() <= 1 / 255  # of rounding each channel
    def spread(p):
        return p.amax(1) - p.amin(1)
    assert (spread(pale) <= 0.5 * spread(x) + 1.01 / 255).all()


def test_field():
    f = exposure_field(pictures(64), generator(13))
    assert f.shape == (64, 1, 40, 40) and f.abs().max() <= 1 and f.isfinite().all()
    assert (f.amax((1, 2, 3)) - f.amin((1, 2, 3))).median() > 0.3  # over and under in one picture


def test_jpeg_artifacts_are_close_to_jpeg():
    import io
    import numpy as np
    from PIL import Image
    x = pictures(1, 64)
    for quality in (50, 90):
        ours = jpeg_artifacts(x, torch.full((1, 1, 1, 1), float(quality)))
        buffer = io.BytesIO()
        Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(buffer, 'JPEG', quality=quality, subsampling=0)
        theirs = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
        assert (ours[0] - theirs).abs().mean() < 2 / 255  # libjpeg also rounds its colour planes
        assert (ours[0] - theirs).abs().mean() < (x[0] - theirs).abs().mean() / 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_gpu_equals_cpu_up_to_dither():
    x, config = pictures(), SimulationConfig(jpeg=0, noise=0)
    a, ev_a = simulate(x, generator(14), config)
    b, ev_b = simulate(x.cuda(), generator(14), config)
    assert (a - b.cpu()).abs().mean() < 2 / 255 or not torch.equal(ev_a, ev_b.cpu())  # the GPU draws its own dither
    assert torch.equal(b, simulate(x.cuda(), generator(14), config)[0])


def test_photographs_named_like_heat_maps_are_listed(tmp_path):
    table, map_ = heatmap.color_table(), torch.zeros(8, 8, dtype=torch.uint8).numpy()
    for name in ('a.png', 'long_exposure.png', '_exposure_legend.png'):
        Image.new('RGB', (8, 8)).save(tmp_path / name)
    (tmp_path / 'a_exposure.png').write_bytes(heatmap.encode_png(map_, table, '{}'))
    assert [path.name for path in list_images(tmp_path)] == ['a.png', 'long_exposure.png']


def test_kinds_are_drawn_with_their_shares_and_alike_in_every_pytorch():
    shares = (.25, .25, .15, .05, .3)
    assert draw_kinds(12, shares, torch.Generator().manual_seed(0)).tolist() == [4, 1, 1, 2, 2, 4, 2, 4, 1, 2, 1, 3]
    seen = torch.bincount(draw_kinds(20_000, shares, torch.Generator().manual_seed(1)), minlength=5) / 20_000
    assert torch.allclose(seen, torch.tensor(shares), atol=.01)
