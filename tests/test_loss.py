"""ExposureLoss: a true gradient for the picture, none for the weights, at any size and in any surroundings."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import models.grid
import models.lightness
import models.p_ieanet
from exposure.loss import ExposureLoss
from models import PIEANet, save_model
from tests_support import SMALL, awake

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def network():
    """Small and untrained, with maps that are not flat."""
    torch.manual_seed(0)
    return awake(PIEANet(SMALL))


def picture(*shape, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(*shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (40, 200)])
@pytest.mark.parametrize('weighted', [False, True])
def test_gradcheck(network, monkeypatch, size, weighted):
    def to_grid(x, grid):  # the network's own goes through fp32
        return nn.functional.interpolate(x, size=(grid, grid), mode='bilinear', align_corners=False, antialias=True)
    for module in (models.grid, models.lightness):
        monkeypatch.setattr(module, 'to_grid', to_grid)
    loss = ExposureLoss(network, 'sum', target=0.013, size=64).double()
    weight = picture(1, 1, *size, seed=2, dtype=torch.float64) if weighted else None
    x = picture(1, 3, *size, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: loss(t, weight), x, fast_mode=True)


def test_value_is_the_mean_absolute_residual(network):
    x = picture(2, 3, 40, 56)
    residual = network(x).abs()
    assert torch.allclose(ExposureLoss(network)(x), residual.mean())
    assert torch.allclose(ExposureLoss(network, 'sum')(x), residual.sum())
    assert torch.allclose(ExposureLoss(network, 'none')(x), residual, atol=1e-5)


def test_a_network_without_parameters_will_do():
    class Grey(nn.Module):
        def forward(self, x):
            return 0.5 - x.mean(1, keepdim=True)
    assert ExposureLoss(Grey())(torch.full((1, 3, 32, 40), 0.2)).item() == pytest.approx(0.3)


def test_gradient_goes_to_the_picture_only(network):
    loss = ExposureLoss(network)
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    x = picture(2, 3, 32, 40).requires_grad_()
    loss(x).backward()
    assert x.grad.isfinite().all() and x.grad.abs().amax() > 0
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert all(torch.equal(v, before[k]) for k, v in loss.state_dict().items())


def test_stays_frozen_and_in_eval_inside_another_module(network):
    outer = nn.ModuleDict({'net': nn.Conv2d(3, 3, 1), 'loss': ExposureLoss(network)})
    outer.train().requires_grad_(True)
    assert outer['net'].training and not any(m.training for m in outer['loss'].modules())
    outer['loss'](outer['net'](picture(1, 3, 32, 32)).sigmoid()).backward()
    assert outer['net'].weight.grad.abs().sum() > 0 and all(p.grad is None and not p.requires_grad for p in outer['loss'].parameters())
    outer['loss'].train().requires_grad_(True)
    assert not any(p.requires_grad for p in outer['loss'].parameters())


def test_the_given_network_is_left_as_it_was(network):
    network.train()
    ExposureLoss(network)
    assert network.training and all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize('value', [-0.01, 1.01, 255.0, float('nan'), float('inf')])
def test_range_is_checked(network, value):
    x = picture(1, 3, 32, 32)
    x[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match='picture holds'):
        ExposureLoss(network)(x)
    ExposureLoss(network, check=False)(x)


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 1, 32, 32), (1, 3, 31, 64)])
def test_shape_is_checked(network, shape):
    with pytest.raises(ValueError, match='accepted: \\(B, 3, H, W\\)'):
        ExposureLoss(network)(torch.zeros(shape))


def test_bytes_are_refused(network):
    with pytest.raises(ValueError, match='uint8'):
        ExposureLoss(network)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize('argument', [{'reduction': 'avg'}, {'target': 1.5}, {'target': float('nan')}, {'size': 8},
                                      {'through': 'weights'}])
def test_arguments_are_checked(network, argument):
    with pytest.raises(ValueError, match='accepted'):
        ExposureLoss(network, **argument)


@pytest.mark.parametrize('size', [(32, 32), (33, 61), (256, 32), (300, 500), (37, 1000)])
def test_any_size(network, size):
    x = picture(1, 3, *size).requires_grad_()
    loss = ExposureLoss(network, 'none')
    value = loss(x)
    value.mean().backward()
    assert x.grad.shape == x.shape and x.grad.isfinite().all()
    assert max(value.shape[-2:]) <= 256 and (max(size) > 256 or value.shape[-2:] == x.shape[-2:])


def test_weight_map(network):
    x, loss = picture(2, 3, 48, 48), ExposureLoss(network)
    left = torch.zeros(1, 1, 48, 48)
    left[..., :24] = 1
    residual = network(x).abs()
    assert torch.allclose(loss(x, left), residual[..., :24].mean())
    assert torch.allclose(loss(x, torch.full((1, 1, 1, 1), 3.0)), residual.mean())  # the mean is weighted
    assert loss(x, torch.zeros(1, 1, 1, 1)) == 0
    with pytest.raises(ValueError, match='weight holds'):
        loss(x, -left)
    with pytest.raises(ValueError, match='broadcasts'):
        loss(x, torch.ones(1, 1, 20, 20))


def test_weight_map_of_a_large_picture_is_shrunk_with_it(network):
    x, loss = picture(1, 3, 320, 512), ExposureLoss(network)
    left = torch.zeros(1, 1, 320, 512)
    left[..., :256] = 1
    whole = ExposureLoss(network, 'none')(x)
    assert torch.allclose(loss(x, left), whole[..., :128].mean(), atol=1e-3)


def test_target(network):
    x = picture(2, 3, 32, 32)
    residual = network(x)
    assert torch.allclose(ExposureLoss(network, target=0.1)(x), (residual - 0.1).abs().mean())
    aim = torch.linspace(-0.1, 0.1, 32 * 32).view(1, 1, 32, 32)
    assert torch.allclose(ExposureLoss(network, target=aim)(x), (residual - aim).abs().mean())
    with pytest.raises(ValueError, match='target is'):
        ExposureLoss(network, target=aim)(picture(1, 3, 40, 40))


def test_through_picture_has_the_same_value_and_pulls_towards_the_ideal(network):
    x = picture(1, 3, 32, 32).requires_grad_()
    loss = ExposureLoss(network, 'sum', through='picture')
    value = loss(x)
    assert torch.allclose(value, ExposureLoss(network, 'sum')(x))
    value.backward()
    slope = -network(x).sign() * torch.tensor(models.p_ieanet.LUMA).view(1, 3, 1, 1)
    assert torch.allclose(x.grad, slope, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_leaves_it_in_full_precision(network, dtype):
    loss, x = ExposureLoss(network), picture(1, 3, 40, 40)
    x = x.to(dtype).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(x)
    value.backward()
    assert value.dtype == torch.float32 and x.grad.dtype == dtype and x.grad.isfinite().all()
    assert torch.allclose(value, loss(x.detach().float()), atol=1e-6)


def test_descent_on_a_gain_lowers_the_loss(network):
    x, loss = picture(1, 3, 32, 32) * 0.3, ExposureLoss(network)
    stops = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([stops], lr=0.05)
    values = []
    for _ in range(12):
        optimiser.zero_grad()
        value = loss((x * torch.exp2(stops)).clamp(0, 1))
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert min(values) < values[0]


def test_inside_distributed_data_parallel(network, tmp_path):
    import torch.distributed as dist

    class Training(nn.Module):
        def __init__(self):
            super().__init__()
            self.enhance, self.loss = nn.Conv2d(3, 3, 1), ExposureLoss(network)

        def forward(self, x):
            return self.loss(self.enhance(x).sigmoid())

    dist.init_process_group('gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Training())
        for _ in range(2):  # the second step finds parameters without gradient, if there are any
            model(picture(2, 3, 32, 32)).backward()
        assert all(p.grad is not None for p in model.module.enhance.parameters())
    finally:
        dist.destroy_process_group()


COMPILED = """
import sys
from pathlib import Path
import torch
from exposure.loss import ExposureLoss
from models import load_model
for size in ((40, 40), (41, 43)):
    torch._dynamo.reset()
    torch.manual_seed(1)
    network, x, grads = load_model(sys.argv[1]), 0.2 + 0.6 * torch.rand(1, 3, *size), []
    loss = ExposureLoss(network)
    for f in (loss, torch.compile(loss, fullgraph=True, backend=sys.argv[2])):
        y = x.clone().requires_grad_()
        f(y).backward()
        grads.append([y.grad])
    for f in (network, torch.compile(network, fullgraph=True, backend=sys.argv[2])):
        network.zero_grad()
        f(x).square().mean().backward()
        grads.append([p.grad.clone() for p in network.parameters()])
    for a, b in zip(grads[0] + grads[2], grads[1] + grads[3]):
        assert torch.allclose(a, b, atol=1e-5), (size, tuple(a.shape), (a - b).abs().max())
"""


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])  # the latter takes minutes on a CPU
def test_compiled_gradients(network, tmp_path, backend):
    if backend == 'inductor' and shutil.which('g++') is None:
        pytest.skip('inductor needs a C++ compiler')
    save_model(network, tmp_path / 'a.safetensors', {})
    # Fresh memory is filled with a large number, so that what a kernel reads beyond its maps shows.
    environment = {**os.environ, 'MALLOC_PERTURB_': '1', 'PYTHONPATH': str(ROOT)}
    subprocess.run([sys.executable, '-c', COMPILED, tmp_path / 'a.safetensors', backend], env=environment, check=True)
