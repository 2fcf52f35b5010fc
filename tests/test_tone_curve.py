"""models/tone_curve.py beside P-IEANet: a second opinion on the level."""
import pytest
import torch
from test_semantics import SMALL
from test_train import make_set

import train_wavelet
from models import PIEANet, PIEANetConfig, load_model, save_model
from models.semantics import CHANNELS
from models.tone_curve import COUNT, Standardise, ToneCurve, ToneCurves, ascending, describe, draw, fit_curve, fit_curves


def small(**settings):
    """Untrained, with curves that have something to say."""
    torch.manual_seed(0)
    net = PIEANet(PIEANetConfig(**SMALL, **settings)).eval()
    for members in net.curve.members if net.curve else []:
        for member in members:
            torch.nn.init.normal_(member.mlp[-1].weight, std=0.1)
    return net


@torch.no_grad()
@pytest.mark.parametrize('settings', [{}, {'semantics': True}, {'kinds': 3}, {'semantics': True, 'kinds': 2}], ids=str)
def test_the_map_is_a_mean_of_two_opinions(settings):
    net, plain = small(curve=0.25, **settings), small(**settings)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith('curve.')})
    x = torch.rand(2, 3, 40, 56)
    context = net.semantics(x, net.config.grid) if net.semantics else None
    opinion = net.curve(x, context)
    assert opinion.shape == (2, 1, 40, 56) and opinion.std() > 1e-3
    assert torch.allclose(net(x), 0.75 * plain(x) + 0.25 * opinion, atol=1e-6)
    assert torch.allclose(net(x)[1:], net(x[1:]), atol=1e-5)  # alone as in a batch
    assert torch.allclose(net.double()(x.double()).float(), net.float()(x), atol=1e-5)


def test_settings_of_the_curve():
    for wrong in (dict(curve=-0.1), dict(curve=1.0), dict(curve=0.3, kinds=0), dict(curve=0.3, semantics=True, grid=1)):
        with pytest.raises(ValueError, match='is (-0.1|1|0)'):
            PIEANetConfig(**wrong)


@torch.no_grad()
def test_a_curve_passes_through_its_knots():
    values, grey = torch.tensor([[0.5, 0.1, 0.0, -0.2, -0.6]]), torch.tensor([[[0.0, 0.25, 0.375], [0.5, 0.75, 1.0]]])
    assert torch.allclose(draw(values, grey), torch.tensor([[[0.5, 0.1, 0.05], [0.0, -0.2, -0.6]]]), atol=1e-6)


@torch.no_grad()
def test_a_curve_is_a_weighed_mean_of_its_knots():
    generator = torch.Generator().manual_seed(0)
    for knots in (2, 3, 9):
        values, grey = torch.randn(2, knots, generator=generator), torch.rand(2, 50, generator=generator)
        grey[:, :2] = torch.tensor([0.0, 1.0])
        near = (1 - (grey[:, None] * (knots - 1) - torch.arange(knots)[:, None]).abs()).clamp_min(0)
        assert torch.allclose(draw(values, grey), (values[:, :, None] * near).sum(1), atol=1e-5)


@pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated')  # torch's own, in forward_ad
def test_sorted_alike_whoever_asks():
    maps = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    plain = ascending(maps)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            with torch.inference_mode():
                assert torch.equal(ascending(maps.to(dtype).contiguous(memory_format=layout)), plain.to(dtype).sort(2).values)
    assert torch.equal(ascending(maps.clone().requires_grad_()), plain) and ascending(maps.clone().requires_grad_()).requires_grad
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(maps, torch.ones_like(maps))
        assert torch.autograd.forward_ad.unpack_dual(ascending(dual)).tangent.eq(1).all()


@torch.no_grad()
def test_kinds_are_weighed_by_the_router():
    torch.manual_seed(0)
    net = ToneCurves(kinds=2, width=8, context=3).eval()
    numbers = describe(torch.rand(2, 3, 40, 56), torch.rand(2, 3, 4, 4))
    assert numbers.shape == (2, COUNT + 6)
    for kind, members in enumerate(net.members):
        for member, value in zip(members, (0.1, 0.3)):
            member.mlp[-1].weight.zero_()
            member.mlp[-1].bias.fill_((-1) ** kind * value)
    net.router[-1].weight.zero_()
    net.router[-1].bias.copy_(torch.tensor([3.0, 1.0]).log())
    assert torch.allclose(net.values(numbers), torch.full((2, 9), 0.75 * 0.2 - 0.25 * 0.2), atol=1e-6)
    assert len(ToneCurves(kinds=2).members[0]) == 1 and ToneCurves(kinds=1).router is None


def told(count=512):
    """Pictures whose first number is what their residual is made of: (numbers, maps)."""
    torch.manual_seed(0)
    numbers, grey = torch.randn(count, COUNT), torch.rand(count, 40)
    residual = 0.2 * numbers[:, :1] * (1 - grey)
    maps = torch.stack((grey, residual, torch.ones_like(grey)), 1)
    maps[:, 1, ::2], maps[:, 2, ::2] = 9, 0  # not valid: whatever stands there
    return numbers, maps, residual


def test_fit_finds_what_the_numbers_tell():
    numbers, maps, residual = told()
    net = fit_curve(ToneCurve(width=32, dropout=0.0), numbers, maps, steps=480, batch_size=64, pixels=32, lr=3e-3)
    with torch.no_grad():
        assert not net.training and (draw(net.values(numbers), maps[:, 0]) - residual).abs().mean() < 0.3 * residual.abs().mean()
    for n, m in ((numbers[:3], maps), (numbers, maps[:, :2]), (numbers[:0], maps[:0])):
        with pytest.raises(ValueError, match='accepted'):
            fit_curve(net, n, m)


def test_fit_of_two_kinds():
    """The same numbers mean the opposite in pictures of the other kind, which the last numbers give away."""
    numbers, maps, residual = told(2048)
    kinds = (numbers[:, -1] > 0).long()
    numbers[:, -8:] += 3 * kinds[:, None]
    sign = (1 - 2 * kinds)[:, None]
    maps[:, 1] *= sign
    net = fit_curves(ToneCurves(kinds=2, width=32), numbers, maps, kinds)
    with torch.no_grad():
        assert not net.training and (net.router(numbers).argmax(1) == kinds).float().mean() > 0.9
        found = draw(net.values(numbers), maps[:, 0])
    assert (found - sign * residual).abs().mean() < 0.7 * residual.abs().mean()
    with pytest.raises(ValueError, match='no picture is of kind 1'):
        fit_curves(net, numbers, maps, torch.zeros_like(kinds))


@torch.no_grad()
@pytest.mark.parametrize('kind, close', [(torch.float16, 2e-3), (torch.bfloat16, 0.02)])
def test_half_precision(kind, close):
    net, x = small(semantics=True, curve=0.25, kinds=2), torch.rand(2, 3, 40, 56)
    wanted, found = net(x), net.to(kind)(x.to(kind))
    assert found.dtype == kind and (found.float() - wanted).abs().max() < close


def test_trains_with_one_picture():
    """A batch of one has no deviation: the running ones stand in, and stay."""
    torch.manual_seed(0)
    net = ToneCurves().train()
    net(torch.rand(4, 3, 40, 56))
    norm = net.router[0]
    before = norm.running_mean.clone()
    net(torch.rand(1, 3, 40, 56)).sum().backward()
    assert torch.equal(norm.running_mean, before) and norm.running_var.std() > 0 and net.members[1][0].mlp[-1].weight.grad.abs().max() > 0


def test_half_of_the_numbers_are_left_out_in_training_only():
    torch.manual_seed(0)
    numbers = torch.randn(2000, COUNT)
    norm, whole = Standardise(COUNT, left_out=0.5), Standardise(COUNT)
    partly, wholly = norm(numbers), whole(numbers)
    seen = partly != 0
    assert abs(seen.float().mean() - 0.5) < 0.01 and torch.allclose(partly[seen], 2 * wholly[seen])  # twice, so that the sum stays on the mean
    assert torch.equal(norm.eval()(numbers), whole.eval()(numbers))
    assert ToneCurves(kinds=2).router[0].left_out == 0.5 and ToneCurve().mlp[0].left_out == 0
    assert set(norm.state_dict()) == {'running_mean', 'running_var', 'num_batches_tracked'}  # as in files of before


def test_fit_is_its_seeds():
    numbers, maps = torch.randn(64, COUNT), torch.rand(64, 3, 16)
    torch.manual_seed(0)
    start, found = ToneCurve(width=8).state_dict(), []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        net = ToneCurve(width=8)
        net.load_state_dict(start)
        found.append(fit_curve(net, numbers, maps, steps=8, batch_size=16, seed=seed).mlp[-1].weight)
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
    two = [*common[:2], *common[:4], '--train-csv', *common[3:]]  # the same set as two sources
    fit = [*two, '--init', tmp_path / 'plain.safetensors', '--tone-curve', both, '--steps', 4, '--curve', 0.3, '--kinds', 0, 1]
    assert run(*fit) == 0
    assert 'mae' in capsys.readouterr().out
    net = load_model(both)
    assert net.config.curve == 0.3 and net.config.kinds == 2 and net.provenance['pictures'] == 8 and net.provenance['arguments']['steps'] == '4'
    state = net.state_dict()
    assert all(torch.equal(state[k], v) for k, v in plain.state_dict().items())  # the network stays as it is,
    for members in net.curve.members:  # and the curves have seen something, the second of all its numbers
        assert [len(m.mlp[0].running_var) for m in members] == [COUNT, COUNT + 2 * CHANNELS][:1 + semantics]
        assert all(m.mlp[0].running_var.std() > 0 and m.mlp[0].running_var.min() < 0.999 and m.mlp[-1].bias.abs().max() > 0 for m in members)
    with torch.no_grad():
        x = torch.rand(1, 3, 40, 40)
        context = net.semantics(x, net.config.grid) if semantics else None
        assert torch.allclose(net(x), 0.7 * plain(x) + 0.3 * net.curve(x, context), atol=1e-6)
    # Beside weights that have curves, new ones take their place.
    assert run(*common, '--init', both, '--tone-curve', tmp_path / 'again.safetensors', '--steps', 4, '--curve', 0.5) == 0
    new = load_model(tmp_path / 'again.safetensors')
    assert new.config.curve == 0.5 and new.config.kinds == 1 and new.provenance['init'] == 'both.safetensors'
    assert all(torch.equal(v, state[k]) for k, v in new.state_dict().items() if not k.startswith('curve.'))
    # And the whole goes on training, down to one picture at a time.
    assert run(*common, '--init', both, '--out', tmp_path / 'run', '--steps', 2, '--batch-size', 1) == 0
    name = 'curve.members.1.0.mlp.7.weight'
    assert not torch.equal(load_model(tmp_path / 'run' / 'best.safetensors').state_dict()[name], state[name])


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
    for kinds in ((0, 0), (1,), (-1,)):
        assert '--kinds' in refused(*right, '--kinds', *kinds)
    assert '--kinds' in refused('--out', 'o', '--kinds', 0)
    assert 'no such folder' in refused('--tone-curve', tmp_path / 'none' / 'x', *right[2:])

    def fault(*words):
        assert run(*common, *words) == 2 and not out.exists()
        return capsys.readouterr().err
    assert 'other settings than the flags ask for, width=99' in fault(*right, '--config', 'width=99')
    assert 'none.csv' in fault(*right, '--val-csv', tmp_path / 'set' / 'none.csv')
    assert 'a tone curve, which does not know such features' in fault(*right, '--semantics', tmp_path / 'lite0.pth')
    assert '--semantics F.pth' in fault('--out', tmp_path / 'o', '--config', 'semantics=1')


def test_trainer_names_what_it_skips(tmp_path, common, capsys):
    torch.manual_seed(0)
    save_model(PIEANet(PIEANetConfig(**SMALL)), tmp_path / 'plain.safetensors')
    broken = sorted((tmp_path / 'set' / 'IEA_img').iterdir())[0]
    broken.write_bytes(b'not a picture')
    assert run(*common[:4], *common[6:], '--init', tmp_path / 'plain.safetensors', '--tone-curve', tmp_path / 'both.safetensors', '--steps', 9, '--skip-bad') == 0
    said = capsys.readouterr().err
    assert broken.name in said and 'could not be read and were skipped' in said
