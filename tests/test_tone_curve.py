"""models/tone_curve.py beside P-IEANet: a second opinion on the level."""
import pytest
import torch
from test_semantics import SMALL
from test_train import make_set

import train_wavelet
from models import PIEANet, PIEANetConfig, load_model, save_model
from models.grey import luma
from models.semantics import CHANNELS
from models.tone_curve import COUNT, ToneCurve, fit_curve


@torch.no_grad()
@pytest.mark.parametrize('semantics', [False, True])
def test_the_map_is_a_mean_of_two_opinions(semantics):
    torch.manual_seed(0)
    net = PIEANet(PIEANetConfig(**SMALL, semantics=semantics, curve=0.25)).eval()
    net.curve.mlp[-1].weight.normal_(std=0.1)
    plain = PIEANet(PIEANetConfig(**SMALL, semantics=semantics)).eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith('curve.')})
    x = torch.rand(2, 3, 40, 56)
    context = net.semantics(x, net.config.grid) if semantics else None
    opinion = net.curve(x, context)
    assert opinion.shape == (2, 1, 40, 56) and opinion.std() > 1e-3
    assert torch.allclose(net(x), 0.75 * plain(x) + 0.25 * opinion, atol=1e-6)
    assert torch.allclose(net(x)[1:], net(x[1:]), atol=1e-5)  # alone as in a batch
    assert torch.allclose(net.double()(x.double()).float(), net.float()(x), atol=1e-5)


def test_settings_of_the_curve():
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match='curve'):
            PIEANetConfig(curve=wrong)


@torch.no_grad()
def test_a_curve_passes_through_its_knots():
    net = ToneCurve(width=8, knots=5).eval()
    net.mlp[-1].weight.zero_()
    net.mlp[-1].bias.copy_(torch.tensor([0.5, 0.1, 0.0, -0.2, -0.6]))
    found = net.curve(torch.rand(1, COUNT), torch.tensor([[0.0, 0.25, 0.375, 0.5, 0.75, 1.0]]))
    assert torch.allclose(found, torch.tensor([[0.5, 0.1, 0.05, 0.0, -0.2, -0.6]]), atol=1e-6)


def test_fit_finds_what_the_numbers_tell():
    """Pictures whose first number is what their residual is made of."""
    torch.manual_seed(0)
    numbers, grey = torch.randn(512, COUNT), torch.rand(512, 40)
    residual = 0.2 * numbers[:, :1] * (1 - grey)
    maps = torch.stack((grey, residual, torch.ones_like(grey)), 1)
    maps[:, 1, ::2], maps[:, 2, ::2] = 9, 0  # not valid: whatever stands there
    net = fit_curve(ToneCurve(width=32, dropout=0.0), numbers, maps, epochs=60, batch_size=64, pixels=32, lr=3e-3)
    with torch.no_grad():
        assert not net.training and (net.curve(numbers, grey) - residual).abs().mean() < 0.3 * residual.abs().mean()
    for n, m in ((numbers[:3], maps), (numbers, maps[:, :2]), (numbers[:0], maps[:0])):
        with pytest.raises(ValueError, match='accepted'):
            fit_curve(net, n, m)


@torch.no_grad()
@pytest.mark.parametrize('kind, close', [(torch.float16, 2e-3), (torch.bfloat16, 0.02)])
def test_half_precision(kind, close):
    torch.manual_seed(0)
    net = PIEANet(PIEANetConfig(**SMALL, semantics=True, curve=0.25)).eval()
    net.curve.mlp[-1].weight.normal_(std=0.1)
    x = torch.rand(2, 3, 40, 56)
    wanted, found = net(x), net.to(kind)(x.to(kind))
    assert found.dtype == kind and (found.float() - wanted).abs().max() < close


def test_trains_with_one_picture():
    """A batch of one has no deviation: the running ones stand in, and stay."""
    torch.manual_seed(0)
    net = ToneCurve().train()
    net(torch.rand(4, 3, 40, 56))
    before = net.mlp[0].running_mean.clone()
    net(torch.rand(1, 3, 40, 56)).sum().backward()
    assert torch.equal(net.mlp[0].running_mean, before) and net.mlp[-1].weight.grad.abs().max() > 0


def test_fit_is_its_seeds():
    numbers, maps = torch.randn(64, COUNT), torch.rand(64, 3, 16)
    torch.manual_seed(0)
    start, found = ToneCurve(width=8).state_dict(), []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        net = ToneCurve(width=8)
        net.load_state_dict(start)
        found.append(fit_curve(net, numbers, maps, epochs=2, batch_size=16, seed=seed).mlp[-1].weight)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.fixture
def common(tmp_path):
    pairs = make_set(tmp_path / 'set', scenes=2)
    return ['--data', tmp_path / 'set', '--train-csv', pairs, '--val-csv', pairs, '--batch-size', 2, '--sizes', 40, '--workers', 0, '--threads', 1,
            '--device', 'cpu']


def run(*words):
    return train_wavelet.main([str(w) for w in words])


@pytest.mark.parametrize('semantics', [False, True])
def test_trainer(tmp_path, common, capsys, semantics):
    torch.manual_seed(0)
    save_model(PIEANet(PIEANetConfig(**SMALL, semantics=semantics)), tmp_path / 'plain.safetensors')
    plain, both = load_model(tmp_path / 'plain.safetensors').eval(), tmp_path / 'both.safetensors'
    fit = [*common, '--init', tmp_path / 'plain.safetensors', '--tone-curve', both, '--steps', 4, '--curve', 0.3]
    assert run(*fit) == 0
    assert 'mae' in capsys.readouterr().out
    net = load_model(both)
    assert net.config.curve == 0.3 and net.provenance['pictures'] == 8 and net.provenance['arguments']['steps'] == '4'
    state = net.state_dict()
    assert all(torch.equal(state[k], v) for k, v in plain.state_dict().items())  # the network stays as it is
    assert net.curve.mlp[0].running_var.std() > 0  # and the curve has seen something,
    assert len(net.curve.mlp[0].running_var) == COUNT + 2 * CHANNELS * semantics and net.curve.mlp[0].running_var.min() < 0.999  # of all its numbers
    with torch.no_grad():
        x = torch.rand(1, 3, 40, 40)
        context = net.semantics(x, net.config.grid) if semantics else None
        assert torch.allclose(net(x), 0.7 * plain(x) + 0.3 * net.curve(x, context), atol=1e-6) and luma(x).shape == net(x).shape
    # Beside weights that have a curve, a new one takes its place: from the same draws it is the same, with another say.
    again = [*common, '--init', both, '--tone-curve', tmp_path / 'again.safetensors', '--steps', 4, '--curve', 0.5]
    assert run(*again) == 0
    new = load_model(tmp_path / 'again.safetensors')
    assert new.config.curve == 0.5 and new.provenance['init'] == 'both.safetensors'
    assert all(torch.equal(v, state[k]) for k, v in new.state_dict().items() if not k.startswith('curve.mlp'))
    # And the whole goes on training, down to one picture at a time.
    assert run(*common, '--init', both, '--out', tmp_path / 'run', '--steps', 2, '--batch-size', 1) == 0
    assert not torch.equal(load_model(tmp_path / 'run' / 'best.safetensors').curve.mlp[-1].weight, net.curve.mlp[-1].weight)


def test_trainer_says_what_it_cannot_do(tmp_path, common, capsys):
    torch.manual_seed(0)
    init, out = tmp_path / 'curve.safetensors', tmp_path / 'x.safetensors'
    save_model(PIEANet(PIEANetConfig(**SMALL, curve=0.3)), init)

    def refused(*words):
        with pytest.raises(SystemExit):
            train_wavelet.get_args([str(w) for w in (*common, *words)])
        return capsys.readouterr().err
    right = ['--tone-curve', out, '--init', init, '--steps', 2]
    for words in (right[:2], [*right, '--sizes', 40, 64], [*right, '--model', 'nafnet'], [*right, '--score-head', tmp_path / 'y'], [*right, '--curve', 0],
                  [*right, '--out', tmp_path], [*right, '--resume', 'auto'], [*right, '--accumulate', 2]):
        assert '--tone-curve' in refused(*words)
    assert 'no such folder' in refused('--tone-curve', tmp_path / 'none' / 'x', *right[2:])

    def fault(*words):
        assert run(*common, *words) == 2 and not out.exists()
        return capsys.readouterr().err
    assert 'other settings than the flags ask for, width=99' in fault(*right, '--config', 'width=99')
    assert 'none.csv' in fault(*right, '--val-csv', tmp_path / 'set' / 'none.csv')
    assert 'a tone curve, which does not know such features' in fault(*right, '--semantics', tmp_path / 'lite0.pth')
    assert '--semantics F.pth' in fault('--out', tmp_path / 'o', '--config', 'semantics=1')
    with pytest.raises(ValueError, match='grid is 1'):
        PIEANetConfig(semantics=True, curve=0.3, grid=1)


def test_trainer_names_what_it_skips(tmp_path, common, capsys):
    torch.manual_seed(0)
    save_model(PIEANet(PIEANetConfig(**SMALL)), tmp_path / 'plain.safetensors')
    broken = sorted((tmp_path / 'set' / 'IEA_img').iterdir())[0]
    broken.write_bytes(b'not a picture')
    assert run(*common[:4], *common[6:], '--init', tmp_path / 'plain.safetensors', '--tone-curve', tmp_path / 'both.safetensors', '--steps', 9, '--skip-bad') == 0
    said = capsys.readouterr().err
    assert broken.name in said and 'could not be read and were skipped' in said
