"""models/tone_curve.py beside P-IEANet: a second opinion on the level."""
import pytest
import torch
from test_semantics import SMALL
from test_train import make_set

import train_wavelet
from models import PIEANet, PIEANetConfig, load_model, save_model
from models.grey import luma
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


def test_trainer(tmp_path, capsys):
    pairs = make_set(tmp_path / 'set', scenes=2)
    torch.manual_seed(0)
    plain = PIEANet(PIEANetConfig(**SMALL)).eval()
    save_model(plain, tmp_path / 'plain.safetensors')
    common = ['--data', tmp_path / 'set', '--train-csv', pairs, '--val-csv', pairs, '--batch-size', 2, '--sizes', 40, '--workers', 0, '--threads', 1,
              '--device', 'cpu']
    fit = [*common, '--init', tmp_path / 'plain.safetensors', '--tone-curve', tmp_path / 'both.safetensors', '--steps', 4, '--curve', 0.3]
    assert train_wavelet.main([str(a) for a in fit]) == 0
    assert 'mae' in capsys.readouterr().out
    net = load_model(tmp_path / 'both.safetensors')
    assert net.config.curve == 0.3 and net.provenance['pictures'] == 8
    state = net.state_dict()
    assert all(torch.equal(state[k], v) for k, v in plain.state_dict().items())  # the network stays as it is
    assert net.curve.mlp[0].running_var.std() > 0  # and the curve has seen something
    with torch.no_grad():
        x = torch.rand(1, 3, 40, 40)
        assert torch.allclose(net(x), 0.7 * plain(x) + 0.3 * net.curve(x), atol=1e-6) and luma(x).shape == net(x).shape
    again = [str(tmp_path / 'both.safetensors') if a == tmp_path / 'plain.safetensors' else str(a) for a in fit]
    assert train_wavelet.main(again) == 2
    assert 'without a tone curve' in capsys.readouterr().err
    right = ['--tone-curve', tmp_path / 'x', '--init', 'w', '--steps', 2]
    for words in (right[:2], [*right, '--sizes', 40, 64], [*right, '--model', 'nafnet'], [*right, '--score-head', tmp_path / 'y'], [*right, '--curve', 0]):
        with pytest.raises(SystemExit):
            train_wavelet.get_args([str(a) for a in (*common, *words)])
