import numpy as np
import pytest
import pywt
import torch

from models.haar import haar_dwt2d, haar_idwt2d
from models.wavelet import FILTERS, alternate, dwt2d, halves, idwt2d, scaling_filter

longer = pytest.mark.parametrize('wavelet', FILTERS)


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


# ---------------------------------------------------------------- db4 and sym4 (models/wavelet.py)

@longer
def test_filters_are_pywavelets(wavelet):
    np.testing.assert_allclose(FILTERS[wavelet], pywt.Wavelet(wavelet).rec_lo, atol=1e-11)


@longer
def test_filters_are_orthonormal_with_four_vanishing_moments(wavelet):
    h = np.array(FILTERS[wavelet])
    for shift in range(4):
        assert abs(h[2 * shift:] @ h[:8 - 2 * shift] - (shift == 0)) < 1e-12
    g = (-1.0) ** np.arange(8) * h[::-1]
    for moment in range(4):
        assert abs(g @ (np.arange(8.0) - 3.5) ** moment) < 1e-9


@longer
@pytest.mark.parametrize('shape', [(2, 3, 32, 32), (1, 5, 33, 40), (4, 2, 7, 9), (3, 1, 1, 1), (1, 1, 2, 6), (5, 7, 64, 31)])
def test_longer_wavelets_reconstruct(wavelet, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    back = idwt2d(*dwt2d(x, wavelet), wavelet, size=shape[-2:])
    assert back.shape == x.shape
    assert (back - x).abs().max() <= 1e-5


@longer
@pytest.mark.parametrize('size', [(20, 34), (4, 2), (64, 64)])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_longer_wavelets_equal_pywavelets(wavelet, size, dtype, tolerance):
    x = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ll, details = pywt.dwt2(x.numpy(), wavelet, mode='periodization')
    for ours, theirs in zip(dwt2d(x.to(dtype), wavelet), (ll, *details)):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.double().numpy(), theirs, atol=tolerance)


@longer
def test_longer_wavelets_keep_energy_and_means(wavelet):
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    bands = dwt2d(x, wavelet)
    assert torch.allclose(sum((b ** 2).sum() for b in bands), (x ** 2).sum(), rtol=1e-12)
    assert torch.allclose(bands[0].mean((2, 3)), 2 * x.mean((2, 3)))  # as Haar's: the network halves it
    flat = dwt2d(torch.full((1, 1, 9, 12), 0.7), wavelet)
    assert torch.allclose(flat[0], torch.tensor(1.4)) and max(b.abs().max() for b in flat[1:]) < 1e-6


@longer
def test_longer_wavelets_gradient(wavelet):
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: idwt2d(*dwt2d(t, wavelet), wavelet, size=(5, 6)), x)


@pytest.mark.parametrize('n', [1, 2, 7, 8])
def test_halves_and_back(n):
    x = torch.arange(2.0 * n).view(2, n)
    even, odd = halves(x, 1)
    assert even.shape == odd.shape == (2, (n + 1) // 2)
    assert torch.equal(alternate(even, odd, 1, n), x)


def test_longer_wavelets_errors():
    with pytest.raises(ValueError, match=r'\(3, 8, 8\)'):
        dwt2d(torch.zeros(3, 8, 8), 'db4')
    with pytest.raises(ValueError, match="'db5'"):
        scaling_filter('db5')
