"""The trained baselines: what every network of the list promises."""
import importlib.util

import pytest
import torch

import train_wavelet
from models.baselines import NETWORKS, make
from models.checkpoint import build_model, load_model, network_name, save_model
from test_iea40k import make_set

EXTRAS = {'unet': 'segmentation_models_pytorch'}
SMALL = {'iqa_resnet50': dict(width=8), 'unet': {}, 'mslt': {}, 'tone_curve': dict(width=8), 'zerodce': dict(width=8), 'nafnet': dict(width=4),
         'retinexformer': dict(width=4), 'encoder_decoder': dict(widths=(8, 16, 16))}


@pytest.fixture(params=NETWORKS)
def name(request):
    extra = EXTRAS.get(request.param)
    if extra and not importlib.util.find_spec(extra):
        pytest.skip(f'{extra} is not installed')
    return request.param


@pytest.fixture
def network(name):
    """With every weight away from its starting value: a network that starts with the zero map shows little."""
    torch.manual_seed(0)
    net = make(name, SMALL[name])
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net.eval()


@torch.no_grad()
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (64, 40)])
def test_map_has_the_pictures_size(network, size):
    maps = network(torch.rand(2, 3, *size))
    assert maps.shape == (2, 1, *size) and maps.dtype == torch.float32 and torch.isfinite(maps).all() and maps.std() > 1e-5


@torch.no_grad()
def test_map_does_not_depend_on_the_batch(network):
    x = torch.rand(4, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    together = network(x)
    for i in range(4):
        assert torch.allclose(network(x[i:i + 1])[0], together[i], atol=1e-5)
    assert torch.allclose(network(x.contiguous(memory_format=torch.channels_last)), together, atol=1e-5)


def test_training_reaches_every_weight(name):
    torch.manual_seed(0)
    net = make(name, SMALL[name]).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(3):  # some parts start from zero, so that those before them get no gradient in the first step
        optimizer.zero_grad()
        out = net(torch.rand(2, 3, 40, 48))
        assert out.shape[0] == 2 and out.shape[2:] == (40, 48)
        (out - 0.3).abs().mean().backward()
        optimizer.step()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@torch.no_grad()
def test_a_fresh_network_starts_near_the_zero_map(name):
    torch.manual_seed(0)
    net = make(name, {}).eval()
    assert net(torch.rand(1, 3, 64, 64)).abs().mean() < 0.05


@torch.no_grad()
def test_bfloat16_is_near(network):
    x = torch.rand(1, 3, 64, 64)
    with torch.autocast('cpu', torch.bfloat16):
        half = network(x).float()
    exact = network(x)
    assert (half - exact).abs().mean() < 0.02 * max(1, exact.abs().max())


@torch.no_grad()
def test_save_and_load(network, name, tmp_path):
    save_model(network, tmp_path / 'a.safetensors', {'step': 3})
    again = load_model(tmp_path / 'a.safetensors')
    assert network_name(again) == name and not again.training and again.provenance == {'step': 3}
    x = torch.rand(1, 3, 33, 40)
    assert torch.equal(again(x), network(x))


def test_wrong_pictures_and_settings_are_refused(network, name):
    for shape in ((1, 3, 31, 40), (1, 1, 40, 40), (3, 40, 40)):
        with pytest.raises(ValueError, match='32'):
            network(torch.rand(shape))
    with pytest.raises(ValueError, match='colour'):
        build_model(name, {'colour': 1})


def test_only_known_networks():
    with pytest.raises(ValueError, match='nafnet'):
        build_model('alexnet', {})


@pytest.mark.skipif(importlib.util.find_spec('segmentation_models_pytorch') is not None, reason='segmentation_models_pytorch is installed')
def test_what_unet_needs_is_named():
    with pytest.raises(ValueError, match='pip install segmentation-models-pytorch'):
        build_model('unet', {})


@torch.no_grad()
def test_zero_dce_stays_on_the_range_of_grey():
    from models.grey import luma
    torch.manual_seed(0)
    net, x = make('zerodce', {}), torch.rand(1, 3, 40, 40)
    net.last.bias.normal_(std=2)
    ideal = luma(x) + net(x)
    assert ideal.min() >= -1e-6 and ideal.max() <= 1 + 1e-6


def test_mslt_is_as_small_as_its_title_says():
    assert 7000 < sum(p.numel() for p in make('mslt', {}).parameters()) < 9000


@torch.no_grad()
def test_a_tone_curve_is_one_function_of_grey_for_the_whole_picture():
    net = make('tone_curve', {}).eval()
    net.mlp[-1].bias.copy_(torch.linspace(0.4, -0.4, 9))  # underexposed shadows, overexposed lights
    net.mlp[-1].weight.zero_()
    grey = torch.rand(1, 1, 40, 48)
    assert torch.allclose(net(grey.expand(-1, 3, -1, -1)), 0.4 - 0.8 * grey, atol=1e-5)


@torch.no_grad()
def test_statistics_of_a_picture():
    from models.tone_curve import COUNT, statistics
    ramp = torch.linspace(0, 1, 256).expand(1, 3, 256, 256)
    found = statistics(ramp)
    assert found.shape == (1, COUNT) and torch.isfinite(found).all()
    assert torch.allclose(found[0, :33], torch.linspace(0.01, 0.99, 33), atol=0.01)  # quantiles of an even spread
    assert torch.allclose(found[0, 60:63], torch.tensor(0.5), atol=0.01)             # mean colour
    assert found[0, 63:65].tolist() == pytest.approx([0.03, 0.03], abs=0.01)         # clipped shares
    assert not torch.allclose(statistics(ramp / 2), found, atol=0.1)


def test_deep_supervision_shows_in_training_only():
    net, x = make('encoder_decoder', {}), torch.rand(1, 3, 40, 40)
    maps = net.train()(x)
    assert maps.shape == (1, 5, 40, 40) and net.eval()(x).shape == (1, 1, 40, 40)
    label, mask = torch.full((1, 1, 40, 40), 0.2), torch.ones(1, 1, 40, 40)
    mask[..., :10] = 0
    args = train_wavelet.get_args(['--photos', 'x', '--out', 'x', '--level-weight', '1', '--ssim-weight', '1'])
    assert train_wavelet.loss_of(label.expand(-1, 5, -1, -1), label, mask, args) < 1e-6
    one = train_wavelet.loss_of(maps[:, :1], label, mask, args)  # at the start all scales nearly agree
    assert train_wavelet.loss_of(maps, label, mask, args).item() == pytest.approx(one.item(), rel=0.02)


@pytest.mark.parametrize('name', [n if n in ('encoder_decoder', 'mslt', 'tone_curve') else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_the_trainer_trains_them(name, tmp_path):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    pairs = make_set(tmp_path / 'set', scenes=2)
    out = tmp_path / 'out'
    small = [word for k, v in SMALL[name].items() for word in ('--config', f'{k}={",".join(map(str, v)) if isinstance(v, tuple) else v}')]
    assert train_wavelet.main([str(a) for a in (
        '--data', tmp_path / 'set', '--train-csv', pairs, '--val-csv', pairs, '--out', out, '--model', name, *small, '--epochs', 1,
        '--batch-size', 2, '--sizes', 40, '--val-size', 48, '--workers', 0, '--threads', 1, '--device', 'cpu', '--amp', 'bf16')]) == 0
    assert network_name(load_model(out / 'best.safetensors')) == name
