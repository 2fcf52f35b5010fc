"""Gated blocks and their U: sizes, the identity that they start as, what reaches where."""
import pytest
import torch

import export_onnx
from models.gated import ChannelNorm, GatedBlock, GatedUNet, crop, gate
from models.haar import even
from tests_support import switch_on


def body(**settings):
    torch.manual_seed(0)
    return switch_on(GatedUNet(8, **settings), 0.3)


def test_gate_multiplies_the_halves():
    x = torch.arange(8.0).view(1, 4, 1, 2)
    assert torch.equal(gate(x), x[:, :2] * x[:, 2:])


@torch.no_grad()
def test_a_block_starts_as_the_identity():
    x = torch.rand(2, 6, 9, 7)
    assert torch.equal(GatedBlock(6)(x), x)


@torch.no_grad()
def test_norm_is_over_the_channels_of_a_pixel():
    x = torch.randn(2, 16, 5, 6)
    y = ChannelNorm(16)(x)
    assert torch.allclose(y.mean(1), torch.zeros(2, 5, 6), atol=1e-5) and torch.allclose(y.var(1, correction=0), torch.ones(2, 5, 6), atol=1e-3)
    assert torch.allclose(ChannelNorm(16)(3 * x + 2), y, atol=1e-3)  # neither brightness nor contrast enters


@torch.no_grad()
@pytest.mark.parametrize('size', [(16, 16), (17, 24), (31, 19), (40, 9)])
def test_any_size(size):
    net, x = body(down=(1, 1), middle=1, up=(1, 1)), torch.rand(2, 8, *size)
    y = net(x)
    assert y.shape == x.shape and y.isfinite().all()
    assert torch.allclose(torch.cat([net(x[:1]), net(x[1:])]), y, atol=1e-5)


@torch.no_grad()
def test_one_corner_is_heard_in_the_other():
    net, x = body(), torch.rand(1, 8, 64, 64)
    changed = x.clone()
    changed[..., :4, :4] += 1
    assert (net(x) - net(changed))[..., -4:, -4:].abs().max() > 1e-6


@pytest.mark.parametrize('size', [(8, 8), (7, 10), (9, 13)])
def test_forms_for_export(size):
    x = torch.rand(1, 2, *size)
    assert torch.equal(even(x), export_onnx.extend(x))
    assert torch.equal(crop(even(x), size), export_onnx.crop(even(x), size)) and torch.equal(crop(even(x), size), x)


@pytest.mark.parametrize('settings', [dict(down=(), up=()), dict(down=(1, 1), up=(1,))])
def test_wrong_settings_are_named(settings):
    with pytest.raises(ValueError, match='equally many'):
        GatedUNet(4, **settings)
