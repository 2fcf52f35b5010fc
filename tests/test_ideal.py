"""What is ideal can be said: --ideal photograph or fusion, instead of leaving it to the router of the tone curves."""
import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_semantics import SMALL
from test_train import make_set

import eval_benchmark
import make_heatmap
from exposure import Predictor
from exposure.compare import main as compare
from exposure.loss import ExposureLoss
from models import PIEANet, PIEANetConfig, save_model, set_ideal
from models.p_ieanet import IDEALS


@pytest.fixture
def net():
    """With two kinds of curves that have something to say, each its own."""
    torch.manual_seed(0)
    net = PIEANet(PIEANetConfig(**SMALL, curve=0.5, kinds=2)).eval()
    for members, level in zip(net.curve.members, (0.1, 0.3)):
        torch.nn.init.constant_(members[0].mlp[-1].bias, level)
    return net


@pytest.fixture
def weights(net, tmp_path):
    save_model(net, tmp_path / 'kinds.safetensors')
    return tmp_path / 'kinds.safetensors'


def test_the_router_is_asked_only_when_nothing_is_said(net):
    x = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        net.curve.router[-1].bias.copy_(torch.tensor([0.0, 0.0]))
        found = {}
        for ideal in ('photograph', 'fusion', 'auto'):
            set_ideal(net, ideal)
            found[ideal] = net(x)
        assert torch.allclose(found['fusion'] - found['photograph'], torch.full_like(found['auto'], 0.1), atol=0.02)
        assert (found['photograph'] < found['auto']).all() and (found['auto'] < found['fusion']).all()
        set_ideal(net, 'fusion')
        net.curve.router[-1].bias.copy_(torch.tensor([9.0, 0.0]))
        assert torch.equal(net(x), found['fusion'])
    assert 'told' not in ''.join(net.state_dict())


def test_wrong_ideals_and_weights_without_kinds(net):
    with pytest.raises(ValueError, match="ideal is 'dark', accepted: auto, photograph, fusion"):
        set_ideal(net, 'dark')
    with pytest.raises(ValueError, match='accepted'):
        set_ideal(net, ['fusion'])
    foreign = torch.nn.Identity()
    foreign.curve = 0.5  # a curve of its own, and none of ours
    for other in (PIEANet(PIEANetConfig(**SMALL)), PIEANet(PIEANetConfig(**SMALL, curve=0.5)), foreign):
        set_ideal(other, 'auto')
        with pytest.raises(ValueError, match='no curves of kinds'):
            set_ideal(other, 'fusion')


def test_shipped_weights_take_a_fusion_for_brighter():
    picture = np.tile(np.linspace(0, 200, 96, dtype=np.uint8)[:, None, None], (1, 128, 3))
    means = [Predictor(device='cpu', ideal=ideal).predict(picture).mean_residual for ideal in ('photograph', 'auto', 'fusion')]
    assert means[0] < means[1] < means[2]


def test_a_network_stays_as_it_was_told(net):
    picture = np.tile(np.linspace(0, 200, 48, dtype=np.uint8)[:, None, None], (1, 64, 3))
    set_ideal(net, 'fusion')
    told = Predictor(model=net, device='cpu').predict(picture).mean_residual
    assert net.curve.told == 1 and ExposureLoss(net).network.curve.told == 1
    assert Predictor(model=net, device='cpu', ideal='auto').predict(picture).mean_residual < told and net.curve.told is None
    with pytest.raises(ValueError, match="score head has learned maps of ideal 'auto'"):
        Predictor(model=net, device='cpu', ideal='fusion', score_head='head.safetensors')


def test_loss(net):
    x = torch.rand(1, 3, 40, 56)
    values = {ideal: ExposureLoss(net, ideal=ideal)(x) for ideal in IDEALS}
    assert len({round(float(v), 6) for v in values.values()}) == 3 and net.curve.told is None  # it works on a copy
    with pytest.raises(ValueError, match='accepted'):
        ExposureLoss(net, ideal='dark')


def test_heat_maps(tmp_path, weights, capsys):
    Image.linear_gradient('L').convert('RGB').save(tmp_path / 'a.png')

    def run(*words):
        code = make_heatmap.main([str(tmp_path / 'a.png'), '--checkpoint', str(weights), '--device', 'cpu', '--json', str(tmp_path / 'a.json'),
                                  '--skip-existing', *words])
        content = json.loads((tmp_path / 'a.json').read_text())
        return code, content['settings'].get('ideal'), content['pictures'][0]['mean_residual']
    auto, fusion = run(), run('--ideal', 'fusion')  # the second is not taken for done
    assert auto[:2] == (0, None) and fusion[:2] == (0, 'fusion') and fusion[2] > auto[2] + 0.01 and run() == auto
    save_model(PIEANet(PIEANetConfig(**SMALL)), tmp_path / 'plain.safetensors')
    with pytest.raises(SystemExit) as end:
        make_heatmap.main([str(tmp_path / 'a.png'), '--checkpoint', str(tmp_path / 'plain.safetensors'), '--device', 'cpu', '--ideal', 'fusion'])
    assert end.value.code == 2 and 'no curves of kinds' in capsys.readouterr().err


def test_benchmark(tmp_path, weights, capsys):
    split = make_set(tmp_path / 'set', scenes=2)
    given = ['--data', str(tmp_path / 'set'), '--csv', str(split), '--checkpoint', str(weights), '--device', 'cpu', '--out', str(tmp_path / 'out.csv'),
             '--bootstrap', '0', '--keep', str(tmp_path / 'kept')]
    rows = {}
    for ideal in IDEALS:
        assert eval_benchmark.main([*given, '--ideal', ideal]) == 0
        first, second = list(csv.DictReader((tmp_path / 'out.csv').open()))[:2]
        rows[first['method']] = first['mae']
        assert second['method'] == 'zero'
    assert list(rows) == ['kinds', 'kinds, photograph', 'kinds, fusion'] and len(set(rows.values())) == 3
    capsys.readouterr()
    save_model(PIEANet(PIEANetConfig(**SMALL)), tmp_path / 'plain.safetensors')
    assert eval_benchmark.main([*given, '--checkpoint', str(tmp_path / 'plain.safetensors'), '--ideal', 'fusion']) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and 'plain.safetensors' in error and 'no curves of kinds' in error


def test_comparison_says_it(tmp_path, weights):
    for name, level in (('before', 60), ('after', 120)):
        (tmp_path / name).mkdir()
        Image.new('RGB', (48, 48), (level,) * 3).save(tmp_path / name / 'a.png')
    assert compare([str(tmp_path / 'before'), str(tmp_path / 'after'), '--out', str(tmp_path / 'report'), '--checkpoint', str(weights),
                    '--device', 'cpu', '--ideal', 'fusion']) == 0
    assert 'kinds.safetensors, ideal: fusion' in (tmp_path / 'report/index.html').read_text()
