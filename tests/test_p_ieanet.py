import random
from dataclasses import replace

import pytest
import torch

from models.grid import SelfAttention, from_grid, to_grid
from models.lightness import LightnessChannelAttention, LightnessPixelAttention, by_rows, sum_of_kernels
from models.p_ieanet import PIEANet, PIEANetConfig, luma
from models.pointwise import Pointwise
from models.structure import DIRECTIONS, LongRangeEncoder, gradient_maps
from tests_support import SMALL, awake


def network(config=SMALL, seed=0):
    """A network that answers."""
    torch.manual_seed(seed)
    return awake(PIEANet(config))


@torch.no_grad()
def test_any_size_and_batch():
    rng = random.Random(0)
    net = network()
    for _ in range(20):
        b, h, w = rng.randint(1, 4), rng.randint(32, 90), rng.randint(32, 90)
        x = torch.rand(b, 3, h, w)
        y = net(x)
        assert y.shape == (b, 1, h, w) and y.isfinite().all() and y.abs().max() <= 1
        alone = torch.cat([net(x[i:i + 1]) for i in range(b)])
        assert (alone - y).abs().max() <= 1e-5
        assert (net(x.flip(0)).flip(0) - y).abs().max() <= 1e-5


@pytest.mark.parametrize('config', [
    PIEANetConfig(), SMALL, PIEANetConfig(width=16, down=(1, 1), middle=0), PIEANetConfig(use_dwt=False), PIEANetConfig(use_structure=False),
    PIEANetConfig(use_lightness=False), replace(SMALL, wavelet='db4'), replace(SMALL, wavelet='sym4')],
    ids=['default', 'three levels', 'no bottom', 'no dwt', 'no structure', 'no lightness', 'db4', 'sym4'])
def test_gradients_reach_every_parameter(config):
    net = network(config).train()
    x = torch.rand(2, 3, 48, 40)
    net(x).square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_size_of_the_default():
    parameters = sum(p.numel() for p in PIEANet().parameters())
    assert parameters <= 1_500_000


@torch.no_grad()
def test_long_range_reaches_the_other_corner():
    torch.manual_seed(0)
    encoder = LongRangeEncoder(4, 4, 16, 2, 1, 8)
    x = torch.rand(1, 4, 64, 64)
    changed = x.clone()
    changed[..., :8, :8] += 1
    assert (encoder(x) - encoder(changed))[..., -8:, -8:].abs().max() > 1e-6


@torch.no_grad()
def test_attention_stays_within_a_picture():
    torch.manual_seed(0)
    attention = SelfAttention(16, 2)
    x = torch.rand(3, 10, 16)
    changed = x.clone()
    changed[1] += 1
    y, z = attention(x), attention(changed)
    assert torch.equal(y[0], z[0]) and torch.equal(y[2], z[2]) and not torch.allclose(y[1], z[1])


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    a = SelfAttention(8, 2).double()
    x = torch.rand(1, 5, 8, dtype=torch.float64)
    heads = []
    for h in range(2):
        s = slice(4 * h, 4 * h + 4)
        q, k, v = a.query(x)[..., s], a.key(x)[..., s], a.value(x)[..., s]
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v)
    assert torch.allclose(a(x), a.out(torch.cat(heads, -1)))


def test_gradient_maps():
    z = torch.arange(12.0).view(1, 1, 3, 4)  # z = 4 y + x
    g = gradient_maps(z)
    assert g.shape == (1, 8, 1, 3, 4)
    for d, (dx, dy) in enumerate(DIRECTIONS):
        assert g[0, d, 0, 1, 1] == 4 * dy + dx
    assert g[0, 0, 0, 0, 3] == 0  # across the right border
    assert len(set(DIRECTIONS)) == 8
    # opposite directions are the same difference seen from the other pixel
    assert torch.equal(g[:, 0, ..., :-1], -g[:, 1, ..., 1:])


@torch.no_grad()
def test_attention_maps_are_weights():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 20, 24)
    a_c = LightnessChannelAttention(16, 8)(x)
    a_p = LightnessPixelAttention(16, 2, 8, (1, 5))(x)
    assert a_c.shape == (2, 16, 1, 1) and a_p.shape == (2, 1, 20, 24)
    assert 0 < a_c.min() and a_c.max() < 1 and 0 < a_p.min() and a_p.max() < 1


@torch.no_grad()
def test_kernels_summed_and_taken_by_rows_are_equation_6():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 21, 17)
    for sizes in ((3, 7, 11), (5, 1), (1,)):
        convs = [torch.nn.Conv2d(4, 1, k, padding=k // 2) for k in sizes]
        found = by_rows(x, sum_of_kernels([c.weight for c in convs]), sum(c.bias for c in convs))
        assert torch.allclose(found, sum(c(x) for c in convs), atol=1e-5)


@pytest.fixture
def one_thread(keep_threads):
    torch.set_num_threads(1)


@pytest.mark.parametrize('inside, outside, bias', [(12, 32, True), (16, 1, True), (64, 8, False)])
def test_pixels_by_themselves_on_one_thread_too(inside, outside, bias, one_thread):
    torch.manual_seed(0)
    layer = Pointwise(inside, outside, bias)
    last = torch.channels_last
    for x, dilates in ((torch.randn(1, inside, 5, 7).to(memory_format=last), False), (torch.randn(1, inside, 60, 50), False),
                       (torch.randn(1, inside, 60, 50).to(memory_format=last), outside > 1),
                       (torch.randn(2, inside, 60, 50).to(memory_format=last), outside > 1),
                       (torch.randn(1, inside, 60, 50, dtype=torch.double).to(memory_format=last), False)):
        layer.to(x.dtype).zero_grad()
        assert layer.dilates(x) == (dilates and torch.backends.mkldnn.is_available())
        x.requires_grad_()
        y = layer(x)
        expected = torch.einsum('bihw,oi->bohw', x, layer.weight[:, :, 0, 0]) + (layer.bias[:, None, None] if bias else 0)
        assert torch.allclose(y, expected, atol=1e-5)
        found, wanted = (torch.autograd.grad(v.square().sum(), (x, layer.weight)) for v in (y, expected))
        for one, other in zip(found, wanted):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-2)


@pytest.mark.filterwarnings('ignore:There is a performance drop')  # of attention under vmap
@torch.no_grad()
def test_threads_and_layouts_give_the_same_map(one_thread):
    net, x = network(), torch.rand(2, 3, 90, 120)
    alone = net(x.to(memory_format=torch.channels_last))
    torch.set_num_threads(2)
    assert torch.allclose(net(x), alone, atol=1e-5)
    assert torch.allclose(torch.vmap(lambda picture: net(picture[None])[0])(x), alone, atol=1e-5)


def test_grid_keeps_constants_and_means():
    x = torch.full((1, 2, 37, 53), 0.7)
    assert torch.allclose(to_grid(x, 8), torch.full((1, 2, 8, 8), 0.7))
    assert torch.allclose(from_grid(to_grid(x, 8), (37, 53)), x)
    y = torch.rand(1, 1, 64, 64)
    assert abs(to_grid(y, 8).mean() - y.mean()) < 0.01


@torch.no_grad()
def test_features_have_the_papers_names():
    _, f = network()(torch.rand(2, 3, 64, 48), return_features=True)
    assert f['channel_attention'].shape == (2, 16, 1, 1) and f['pixel_attention'].shape == (2, 1, 8, 6)
    for i, size in ((1, (32, 24)), (2, (16, 12)), (3, (8, 6))):
        for name in ('long', 'short', 'grad_long', 'grad_short'):
            assert f[f'{name}_{i}'].shape[-2:] == size


@torch.no_grad()
def test_an_untrained_network_says_all_fine():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64) * torch.tensor([0.3, 1.0]).view(2, 1, 1, 1)
    for config in (SMALL, PIEANetConfig()):
        assert PIEANet(config).eval()(x).abs().max() <= 0.02


@pytest.mark.parametrize('level', [0, 1 / 255, 1])
@pytest.mark.parametrize('config', [SMALL, PIEANetConfig()], ids=['small', 'default'])
def test_gradients_are_finite_at_flat_pictures(level, config):
    net, x = network(config).train(), torch.full((1, 3, 32, 40), float(level), requires_grad=True)
    net(x).square().mean().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in net.parameters())


@torch.no_grad()
@pytest.mark.parametrize('config', [replace(SMALL, wavelet='db4'), replace(SMALL, use_dwt=False),
                                    replace(SMALL, levels=4, structure_widths=(4, 8, 8, 8))], ids=['db4', 'no dwt', 'four levels'])
def test_odd_sizes(config):
    for size in ((32, 32), (33, 47), (61, 200)):
        y = network(config)(torch.rand(1, 3, *size))
        assert y.shape == (1, 1, *size) and y.isfinite().all()


def test_luma_is_pils_grey():
    import numpy as np
    from PIL import Image
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    ours = luma(torch.from_numpy(rgb).permute(2, 0, 1)[None].float())[0, 0].numpy()
    assert np.abs(ours - np.asarray(Image.fromarray(rgb).convert('L'), float)).max() <= 0.51


@torch.no_grad()
def test_hardly_depends_on_resolution():
    net = network()
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6), size=(256, 256), mode='bicubic').clamp(0, 1)
    half = torch.nn.functional.interpolate(x, size=(128, 128), mode='bilinear', antialias=True)
    assert abs(net(x).mean() - net(half).mean()) < 0.05


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    net, x = network(), torch.rand(1, 3, 64, 64)
    with torch.autocast('cpu', dtype):
        y = net(x)
    assert (y.float() - net(x)).abs().max() <= 0.05  # random weights; trained ones are checked to 0.02
    assert net.to(dtype)(torch.zeros(1, 3, 32, 32, dtype=dtype)).isfinite().all()  # black


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@torch.no_grad()
def test_gpu_equals_cpu():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        net, x = network(), torch.rand(2, 3, 96, 80)
        expected = net(x)
        net, x = net.cuda(), x.cuda()
        assert (net(x).cpu() - expected).abs().max() <= 1e-4
        with torch.autocast('cuda', torch.bfloat16):
            assert (net(x).float().cpu() - expected).abs().max() <= 0.02
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize('shape', [(1, 3, 31, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_wrong_input_is_named(shape):
    with pytest.raises(ValueError, match='H, W >= 32'):
        network()(torch.zeros(shape))


@pytest.mark.parametrize('change, word', [(dict(levels=0), 'levels'), (dict(levels=2), 'structure_widths'),
                                          (dict(down=()), 'down'), (dict(down=(1, -1)), 'down'), (dict(kernels=(2,)), 'kernels'),
                                          (dict(wavelet='db5'), 'wavelet'), (dict(middle=-1), 'middle')])
def test_wrong_config_is_named(change, word):
    with pytest.raises(ValueError, match=word):
        PIEANetConfig(**change)


def test_one_number_stands_for_a_tuple_of_it():
    assert PIEANetConfig(structure_widths=8, kernels=3, down=1) == PIEANetConfig(structure_widths=(8,), kernels=[3], down=[1])
    assert PIEANet(PIEANetConfig(structure_widths=8)).eval()(torch.rand(1, 3, 40, 48)).shape == (1, 1, 40, 48)


def test_config_round_trip():
    import json
    assert PIEANetConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    with pytest.raises(ValueError, match='unknown'):
        PIEANetConfig.from_dict({'widht': 3})
