"""The authors' released weights: golden outputs, equality with the literal graph, files to be refused."""
import copy
import csv
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from literal_released import LiteralReleasedNet
from models import released
from models.checkpoint import CheckpointError, load_model
from models.released import ReleasedWaveletNet, load_released


ROOT = Path(__file__).resolve().parent.parent


def randomised(dtype=torch.float64):
    """Literal and fast network with the same random weights; no bias at zero, no gain at one."""
    torch.manual_seed(0)
    literal = LiteralReleasedNet().eval()
    with torch.no_grad():
        for parameter in literal.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    state = literal.state_dict()
    with torch.no_grad():
        state['fusion.tail_conv.4.bias'].fill_(1)       # the last ReLU must not hide the structure branch
    fast = ReleasedWaveletNet().eval()
    fast.load_state_dict({k: v for k, v in state.items() if not k.startswith(released.UNUSED)}, strict=True)
    return literal.to(dtype), fast.to(dtype)


def pth(directory, epoch):
    return next(directory.glob(f'wavelet_epoch_{epoch}_*.pth'))


def golden(directory, epoch, pictures):
    data = np.load(directory / 'golden.npz', allow_pickle=False)
    x = torch.from_numpy(data['pictures'][pictures]).permute(0, 3, 1, 2).float() / 255
    return x, torch.from_numpy(data[f'residual_epoch_{epoch}'][pictures])[:, None]


# ---- the authors' files

@pytest.mark.parametrize('epoch', [1, 2])
@pytest.mark.parametrize('pictures', [slice(0, 2), pytest.param(slice(2, 8), marks=pytest.mark.slow)])
def test_golden_outputs_of_the_authors_code(released_dir, epoch, pictures):
    x, expected = golden(released_dir, epoch, pictures)
    with torch.no_grad():
        assert (load_released(pth(released_dir, epoch))(x) - expected).abs().max() <= 2e-5


def test_golden_with_gradients_takes_the_plain_path(released_dir):
    x, expected = golden(released_dir, 2, slice(1, 2))
    assert (load_released(pth(released_dir, 2))(x) - expected).abs().max() <= 2e-5


@pytest.mark.parametrize('autocast', [False, True])
def test_golden_in_bfloat16(released_dir, autocast):
    x, expected = golden(released_dir, 2, slice(0, 1))
    net = load_released(pth(released_dir, 2))
    net = net if autocast else net.bfloat16()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        residual = net(x)
    assert residual.dtype == torch.float32
    assert (residual - expected).abs().max() <= 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_golden_on_the_gpu(released_dir, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    x, expected = golden(released_dir, 2, slice(0, 8))
    net = load_released(pth(released_dir, 2), 'cuda')
    with torch.no_grad():
        assert (net(x.cuda()).cpu() - expected).abs().max() <= 1e-4
        assert (net.bfloat16()(x.cuda()).cpu() - expected).abs().max() <= 0.02


@pytest.mark.parametrize('name', ['test1_high', 'test_low'])
def test_published_sample_pictures(released_dir, name):
    """Drawn by the release's own recipe: each step here is its heat-map script's, its faults included."""
    pyplot = pytest.importorskip('matplotlib.pyplot')
    pyplot.switch_backend('Agg')
    from matplotlib.colors import LinearSegmentedColormap
    from PIL import Image

    rgb = np.array(Image.open(released_dir / 'samples' / f'{name}.jpg').convert('RGB'))
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():       # its torchvision resizes tensors without antialiasing
        residual = load_released(pth(released_dir, 2))(F.interpolate(x, size=(256, 256), mode='bilinear'))
    residual = F.interpolate(residual, size=rgb.shape[:2], mode='bilinear')[0, 0]
    figure, axes = pyplot.subplots(figsize=(6, 6))
    colours = LinearSegmentedColormap.from_list('exposure', [(0, 0, 1), (1, 1, 1), (1, 0, 0)], N=256)
    axes.imshow(((1 - residual) / 2).clamp(0, 1).numpy(), cmap=colours)     # stretches to min..max
    axes.axis('off')
    drawn = io.BytesIO()
    figure.savefig(drawn, bbox_inches='tight', pad_inches=0, dpi=100)
    pyplot.close(figure)
    published = released_dir / 'samples' / f'{name}_exposure.png'
    ours, published = (np.asarray(Image.open(f).convert('RGB')).astype(float) for f in (drawn, published))
    assert ours.shape == published.shape
    assert np.abs(ours - published).mean() < 1.5


def test_load_model_recognises_the_authors_file(released_dir):
    net = load_model(pth(released_dir, 2))
    assert isinstance(net, ReleasedWaveletNet) and not net.training


# ---- against the literal graph, on random weights

@pytest.mark.parametrize('size', [(32, 32), (44, 68), (37, 51), (6, 6), (6, 31)])
@pytest.mark.parametrize('gradients', [False, True])
def test_equals_the_literal_graph(monkeypatch, size, gradients):
    monkeypatch.setattr(released, 'STRIP_BYTES', 8 * 64 * 68 * 5)       # five rows of the widest
    monkeypatch.setattr(released, 'TOKENS', 100)
    literal, fast = randomised()
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = literal.per_picture(x)
    with torch.set_grad_enabled(gradients):
        residual = fast(x)
    assert residual.shape == (2, 1, *size)
    assert residual.requires_grad == gradients
    assert (residual - expected).abs().max() < 1e-10 * expected.abs().max()


def test_structure_branch_equals_nine_modules_one_after_the_other():
    literal, fast = randomised()
    bands = torch.rand(1, 9, 20, 26, dtype=torch.float64)
    with torch.no_grad():
        expected = literal.encoder(bands.expand(2, -1, -1, -1))[:1]
        assert torch.allclose(fast.encoder(bands), expected, rtol=0, atol=1e-10)


def test_gradients_equal_the_literal_graphs():
    literal, fast = randomised()
    x = torch.rand(1, 3, 16, 20, dtype=torch.float64)
    weights = torch.rand(1, 1, 16, 20, dtype=torch.float64)
    (literal.per_picture(x) * weights).sum().backward()
    (fast.train()(x) * weights).sum().backward()
    expected = {k: p.grad for k, p in literal.named_parameters()}
    for name, parameter in fast.named_parameters():
        assert torch.isfinite(parameter.grad).all()
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-6, atol=1e-9), name
    assert all(parameter.grad.any() for parameter in fast.parameters())


def test_float32_and_bfloat16_on_random_weights():
    literal, fast = randomised(torch.float32)
    x = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        expected, full, half = literal.per_picture(x), fast(x), copy.deepcopy(fast).bfloat16()(x)
    scale = expected.abs().max()
    assert (full - expected).abs().max() < 1e-5 * scale
    assert (half - expected).abs().max() < 2e-2 * scale


@pytest.mark.parametrize('gradients', [False, True])
def test_a_map_does_not_depend_on_its_batch(gradients):
    fast = randomised(torch.float32)[1]
    x = torch.rand(8, 3, 32, 40)
    with torch.set_grad_enabled(gradients):
        together = fast(x).detach()
        alone = torch.cat([fast(picture).detach() for picture in x.split(1)])
        other_neighbours = fast(x.flip(0)).detach().flip(0)
    assert (together - alone).abs().max() <= 1e-5
    assert (together - other_neighbours).abs().max() <= 1e-5


def test_the_literal_graph_mixes_its_batch():
    """What the per-picture semantics repair; if this fails, the test above proves nothing."""
    literal = randomised(torch.float32)[0]
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert (literal(x) - literal.per_picture(x)).abs().max() > 1e-3


def test_memory_layout_and_input_are_left_alone():
    fast = randomised(torch.float32)[1]
    x = torch.rand(2, 3, 32, 40)
    before = x.clone()
    with torch.no_grad():
        expected = fast(x)
        assert torch.equal(x, before)
        assert torch.equal(fast(x.contiguous(memory_format=torch.channels_last)), expected)
        assert torch.equal(fast(x.flip(3)[:, :, :, range(39, -1, -1)]), expected)


def test_thread_count_changes_rounding_only(keep_threads):
    fast = randomised(torch.float32)[1]
    x = torch.rand(1, 3, 64, 64)
    maps = []
    for n in (1, 2):
        torch.set_num_threads(n)
        with torch.no_grad():
            maps.append(fast(x))
    assert (maps[0] - maps[1]).abs().max() <= 1e-5


@pytest.mark.parametrize('x, message', [
    (torch.rand(3, 32, 32), r'\(3, 32, 32\)'), (torch.rand(1, 1, 32, 32), r'\(1, 1, 32, 32\)'),
    (torch.rand(1, 3, 5, 32), 'at least 6'), (torch.rand(0, 3, 32, 32), r'\(0, 3, 32, 32\)'),
    (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 'uint8')])
def test_other_inputs_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        ReleasedWaveletNet()(x)


# ---- files

def test_keys_are_the_authors(released_dir):
    state = torch.load(pth(released_dir, 2), map_location='cpu', weights_only=True)
    assert set(ReleasedWaveletNet().state_dict()) == {k for k in state if not k.startswith(released.UNUSED)}


def test_fine_tuned_weights_come_back(tmp_path):
    net = randomised(torch.float32)[1]
    torch.save(net.state_dict(), tmp_path / 'tuned.pth')
    again = load_released(tmp_path / 'tuned.pth')
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(x), again(x))


class Evil:
    """Would create a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def refusal(path):
    with pytest.raises(CheckpointError) as error:
        load_released(path)
    message = str(error.value)
    assert str(path) in message and '\n' not in message and len(message) < len(str(path)) + 400
    return message[len(str(path)):]


def full_state():
    return LiteralReleasedNet().state_dict()


@pytest.mark.parametrize('keep', [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize('new_format', [True, False])
def test_truncated_file(tmp_path, keep, new_format):
    torch.save(full_state(), tmp_path / 'cut.pth', _use_new_zipfile_serialization=new_format)
    data = (tmp_path / 'cut.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(data[:int(len(data) * keep)])
    assert 'cut short, damaged' in refusal(tmp_path / 'cut.pth')


@pytest.mark.parametrize('new_format', [True, False])
def test_pickled_object_is_not_executed(tmp_path, new_format):
    state = {**full_state(), 'extra': Evil(tmp_path / 'executed')}
    torch.save(state, tmp_path / 'evil.pth', _use_new_zipfile_serialization=new_format)
    message = refusal(tmp_path / 'evil.pth')
    assert 'open' in message and 'nothing in it was executed' in message
    assert not (tmp_path / 'executed').exists()


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_plain_pickle_is_not_executed(tmp_path):
    (tmp_path / 'evil.pth').write_bytes(pickle.dumps(Evil(tmp_path / 'executed')))
    refusal(tmp_path / 'evil.pth')
    assert not (tmp_path / 'executed').exists()


def test_another_networks_file(tmp_path):
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / 'other.pth')
    message = refusal(tmp_path / 'other.pth')
    assert 'missing ffa_group' in message and 'more' in message


def test_missing_unexpected_and_misshapen_are_named(tmp_path):
    state = full_state()
    del state['ffa_group.pre.0.bias']
    torch.save(state, tmp_path / 'a.pth')
    assert 'missing ffa_group.pre.0.bias' in refusal(tmp_path / 'a.pth')
    torch.save({**full_state(), 'surplus': torch.zeros(1)}, tmp_path / 'b.pth')
    assert 'unexpected surplus' in refusal(tmp_path / 'b.pth')
    torch.save({**full_state(), 'High_1.conv.weight': torch.zeros(3, 3, 3, 3)}, tmp_path / 'c.pth')
    assert 'High_1.conv.weight is (3, 3, 3, 3), expected (3, 3, 2, 2)' in refusal(tmp_path / 'c.pth')
    torch.save({**full_state(), 'High_1.conv.bias': torch.full((3,), torch.nan)}, tmp_path / 'd.pth')
    assert 'High_1.conv.bias is not finite' in refusal(tmp_path / 'd.pth')


@pytest.mark.parametrize('content', [[1, 2], {'epoch': 3}, {}, {1: torch.zeros(3)}, torch.zeros(3)])
def test_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / 'odd.pth')
    assert 'not a state_dict' in refusal(tmp_path / 'odd.pth')


def test_a_training_state_is_told_from_weights(tmp_path):
    torch.save({'model': full_state(), 'optimizer': {}, 'step': 3}, tmp_path / 'last.pt')
    assert 'a training state' in (said := refusal(tmp_path / 'last.pt')) and 'best.safetensors beside it' in said


def test_no_file_and_no_weights(tmp_path):
    assert 'no such file' in refusal(tmp_path / 'absent.pth')
    assert 'no such file' in refusal(tmp_path)      # a folder
    (tmp_path / 'text.pth').write_text('these are not weights\n' * 50)
    assert 'no file of torch.save' in refusal(tmp_path / 'text.pth')


def test_speed_script_gives_speed_and_difference_in_one_row(tmp_path):
    command = [sys.executable, ROOT / 'benchmarks' / 'released_speed.py', '--device', 'cpu', '--size', '32',
               '--threads', '1', '--batch', '1', '2', '--repeats', '1', '--out', tmp_path / 'speed.csv']
    subprocess.run(command, check=True, capture_output=True, text=True)
    with open(tmp_path / 'speed.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    assert [(r['batch'], r['network'], r['dtype']) for r in rows] == [
        (b, n, d) for b in '12' for n in ('released', 'P-IEANet') for d in ('float32', 'bfloat16')]
    for r in rows:
        assert float(r['literal_ms']) > 0 and float(r['ours_ms']) > 0 and r['hardware'] and r['torch']
        if r['network'] == 'P-IEANet':
            assert r['max_difference'] == ''
            continue
        assert float(r['max_difference']) < (1e-5 if r['dtype'] == 'float32' else 0.02)
