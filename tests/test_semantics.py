"""models/semantics.py: frozen features of another network beside the lightness branch."""
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import train_wavelet
from models import PIEANet, PIEANetConfig, load_model, save_model
from models.semantics import CHANNELS, STAGES, Convolution, Semantics, folded
from test_iea40k import make_set

SMALL = dict(width=8, down=(1,), middle=1, structure_widths=(4,), token_width=8, heads=2, grid=4, structure_grid=4, kernels=(3,))


def published(seed=0):
    """A state with the names of the published one, random numbers in it."""
    g = torch.Generator().manual_seed(seed)
    state = {}

    def add(conv, norm, outside, inside, kernel):
        state[f'{conv}.weight'] = torch.randn(outside, inside, kernel, kernel, generator=g) * (2 / inside / kernel ** 2) ** 0.5
        for name, low in (('weight', 0.8), ('bias', -0.1), ('running_mean', -0.1), ('running_var', 0.5)):
            state[f'{norm}.{name}'] = low + 0.4 * torch.rand(outside, generator=g)
    add('_conv_stem', '_bn0', 32, 3, 3)
    inside, number = 32, 0
    for expansion, outside, blocks, _, kernel in STAGES:
        for _ in range(blocks):
            name, middle = f'_blocks.{number}', inside * expansion
            if expansion > 1:
                add(f'{name}._expand_conv', f'{name}._bn0', middle, inside, 1)
            add(f'{name}._depthwise_conv', f'{name}._bn1', middle, 1, kernel)
            add(f'{name}._project_conv', f'{name}._bn2', outside, middle, 1)
            inside, number = outside, number + 1
    state['_fc.weight'] = torch.zeros(1000, 1280)  # what we do not need
    return state


@pytest.fixture
def file(tmp_path):
    torch.save(published(), tmp_path / 'lite0.pth')
    return tmp_path / 'lite0.pth'


@torch.no_grad()
def test_norms_are_folded_into_convolutions():
    state, net = published(), Semantics()
    net.load_state_dict(folded(state))
    x = torch.rand(2, 3, 128, 128)

    def norm(y, name):
        return F.batch_norm(y, *(state[f'{name}.{k}'] for k in ('running_mean', 'running_var', 'weight', 'bias')), eps=1e-3)
    y = F.relu6(norm(F.conv2d(F.pad((x * 255 - 127) / 128, (0, 1, 0, 1)), state['_conv_stem.weight'], stride=2), '_bn0'))
    y = F.relu6(norm(F.conv2d(y, state['_blocks.0._depthwise_conv.weight'], padding=1, groups=32), '_blocks.0._bn1'))
    y = norm(F.conv2d(y, state['_blocks.0._project_conv.weight']), '_blocks.0._bn2')
    assert torch.allclose(net(x, 64)[:, :16], y, atol=1e-4)


@pytest.mark.parametrize('kernel, stride, size, margin', [(3, 1, 8, (1, 1)), (3, 2, 8, (0, 1)), (5, 2, 8, (1, 2)), (5, 1, 8, (2, 2)), (1, 1, 8, (0, 0))])
def test_margins_are_tensorflows(kernel, stride, size, margin):
    conv = Convolution(2, 3, kernel, stride)
    assert conv.margin == margin and conv(torch.rand(1, 2, size, size)).shape[-1] == size // stride


@torch.no_grad()
def test_any_size_and_shape():
    net = Semantics()
    for size in ((32, 32), (47, 200), (256, 256)):
        assert net(torch.rand(1, 3, *size), 4).shape == (1, CHANNELS, 4, 4)


def test_network_with_semantics(file, tmp_path):
    torch.manual_seed(0)
    net = PIEANet(PIEANetConfig(**SMALL, semantics=True))
    net.semantics.load_published(file)
    x = torch.rand(3, 3, 40, 56, requires_grad=True)
    net(x)[:, :, ::2].sum().backward()
    assert all(p.grad is None for p in net.semantics.parameters())
    assert net.lightness.context[-1].weight.grad.abs().max() > 0  # it starts without a say, and learns
    with torch.no_grad():
        net.lightness.context[-1].weight.normal_(std=0.3)
    net.eval()
    plain = PIEANet(PIEANetConfig(**SMALL)).eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if k in plain.state_dict()})
    with torch.no_grad():
        together = net(x)
        assert (together - plain(x)).abs().max() > 1e-6
        assert torch.allclose(together[1:2], net(x[1:2]), atol=1e-5)  # alone as in a batch
        assert torch.allclose(net.double()(x.double()).float(), together, atol=1e-5)
    net.float()
    save_model(net, tmp_path / 'a.safetensors')
    assert load_file(tmp_path / 'a.safetensors')['semantics.stem.weight'].dtype == torch.float16
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / 'a.safetensors')(x), together)  # half precision loses nothing


def test_semantics_need_the_lightness_branch():
    with pytest.raises(ValueError, match='lightness'):
        PIEANetConfig(semantics=True, use_lightness=False)


def test_trainer(file, tmp_path, capsys):
    pairs, out = make_set(tmp_path / 'set', scenes=2), tmp_path / 'out'
    small = [w for k, v in SMALL.items() for w in ('--config', f'{k}={",".join(map(str, v)) if isinstance(v, tuple) else v}')]
    common = ['--data', tmp_path / 'set', '--train-csv', pairs, '--out', out, *small, '--epochs', 1, '--batch-size', 2, '--sizes', 40, '--workers', 0,
              '--threads', 1, '--device', 'cpu']
    assert train_wavelet.main([str(a) for a in (*common, '--semantics', file)]) == 0
    net = load_model(out / 'best.safetensors')
    assert net.config.semantics and torch.equal(net.semantics.stem.weight, folded(published())['stem.weight'].half().float())
    plain = PIEANet(PIEANetConfig(**SMALL)).eval()
    save_model(plain, tmp_path / 'plain.safetensors')
    later = train_wavelet.make_model(train_wavelet.get_args([str(a) for a in (*common[:6], '--init', tmp_path / 'plain.safetensors', '--semantics', file)]))
    x = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(later.eval()(x), plain(x)) and later.config.semantics
    again = ('--init', out / 'best.safetensors')  # weights that have such features bring them along
    assert train_wavelet.make_model(train_wavelet.get_args([str(a) for a in (*common[:6], *again)])).config.semantics
    capsys.readouterr()
    assert train_wavelet.main([str(a) for a in (*common[:4], '--out', tmp_path / 'o', *common[6:], *again, '--semantics', file)]) != 0
    assert 'have such features already' in capsys.readouterr().err
    (tmp_path / 'other.pth').write_bytes(b'no weights')
    for path, words in ((tmp_path / 'none.pth', 'no such file'), (tmp_path / 'other.pth', 'not the weights of EfficientNet-Lite0')):
        assert train_wavelet.main([str(a) for a in (*common[:4], '--out', tmp_path / 'o', *common[6:], '--semantics', path)]) != 0
        assert words in capsys.readouterr().err
