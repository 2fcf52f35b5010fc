import numpy as np
import pytest
import pywt
import torch

from models.haar import haar_dwt2d, haar_idwt2d


def test_hand_worked_block():
    ll, lh, hl, hh = haar_dwt2d(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
    assert [t.item() for t in (ll, lh, hl, hh)] == [6.0, -3.0, -2.0, 1.0]


@pytest.mark.parametrize('shape', [(2, 3, 32, 32), (1, 5, 33, 40), (4, 2, 7, 9), (3, 1, 1, 1), (5, 7, 64, 31)])
def test_perfect_reconstruction(shape):
    # batch != channels: the widely copied inverse that slices channels by the batch count fails here
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    back = haar_idwt2d(*haar_dwt2d(x), size=shape[-2:])
    assert back.shape == x.shape
    assert (back - x).abs().max() <= 1e-6


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.05)])
def test_equals_pywavelets(dtype, tolerance):
    x = torch.rand(2, 3, 20, 34, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ll, details = pywt.dwt2(x.numpy(), 'haar')
    for ours, theirs in zip(haar_dwt2d(x.to(dtype)), (ll, *details)):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.double().numpy(), theirs, atol=tolerance)


def test_energy_is_kept():
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(sum((b ** 2).sum() for b in haar_dwt2d(x)), (x ** 2).sum(), rtol=1e-12)


def test_directions():
    rows = torch.zeros(1, 1, 4, 4)
    rows[..., 1::2, :] = 1  # changes from row to row only
    ll, lh, hl, hh = haar_dwt2d(rows)
    assert lh.abs().min() == 1 and hl.abs().max() == 0 and hh.abs().max() == 0
    ll, lh, hl, hh = haar_dwt2d(rows.transpose(2, 3))
    assert hl.abs().min() == 1 and lh.abs().max() == 0 and hh.abs().max() == 0


def test_gradient():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: haar_idwt2d(*haar_dwt2d(t), size=(5, 6)), x)


def test_errors_name_the_shape():
    with pytest.raises(ValueError, match=r'\(3, 8, 8\)'):
        haar_dwt2d(torch.zeros(3, 8, 8))
    bands = [torch.zeros(1, 1, 4, 4)] * 3
    with pytest.raises(ValueError, match='differ in shape'):
        haar_idwt2d(*bands, torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match=r'\(9, 8\)'):
        haar_idwt2d(*bands, bands[0], size=(9, 8))
