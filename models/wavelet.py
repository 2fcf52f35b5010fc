"""Orthonormal wavelets with longer filters than Haar's: Daubechies' db4 and sym4, periodised. Fixed filters, nothing is learned.

    low[k]  = sum_n h[n] x[2k - 3 + n]             the picture goes on periodically at its borders
    high[k] = sum_n g[n] x[2k - 3 + n],  g[n] = (-1)^n h[7 - n]

first along the rows' direction, then along the columns'. Band order, signs and alignment equal PyWavelets'
``dwt2(x, name, mode='periodization')`` -> ``ll, (lh, hl, hh)``, so the bands mean what those of models/haar.py do. Even and odd
samples are moved and added (polyphase form); the transform is an orthonormal matrix, so its inverse moves them back with the same numbers.
"""
import numpy as np
import torch

WAVELETS = ('haar', 'db4', 'sym4')


def scaling_filter(wavelet):
    """The eight numbers h of db4 or sym4: four vanishing moments, sum sqrt(2), orthonormal to their even shifts.

    |H|^2 = 2 cos^8(w/2) P(sin^2(w/2)) with P(y) = 1 + 4 y + 10 y^2 + 20 y^3 (Daubechies 1988). A root y of P stands for z and 1/z
    with z + 1/z = 2 - 4 y, and H may have either: db4 takes all inside the unit circle, sym4 the complex two outside, which
    makes it nearly symmetric.

    Raises:
        ValueError: for another name.
    """
    if wavelet not in ('db4', 'sym4'):
        raise ValueError(f"wavelet is {wavelet!r}, accepted: 'db4', 'sym4'")
    u = 1 - 2 * np.roots([20, 10, 4, 1]).astype(complex)
    z = u + np.sqrt(u * u - 1)
    z = np.where(abs(z) < 1, z, 1 / z)
    if wavelet == 'sym4':
        z = np.where(abs(z.imag) > 1e-9, 1 / z, z)
    h = np.poly([-1] * 4 + z.tolist()).real
    return (h * np.sqrt(2) / h.sum()).tolist()


FILTERS = {name: scaling_filter(name) for name in ('db4', 'sym4')}


def _pairs(wavelet):
    """For m = 0 .. 3: (h[2m], h[2m+1], g[2m], g[2m+1])."""
    h = FILTERS[wavelet]
    return [(h[n], h[n + 1], h[7 - n], -h[6 - n]) for n in range(0, 8, 2)]


def halves(x, dim):
    """Even and odd rows (or columns); an odd side repeats its last one. By index, so that it exports with dynamic sizes."""
    size = x.shape[dim]
    first = 2 * torch.arange((size + 1) // 2, device=x.device)
    return x.index_select(dim, first), x.index_select(dim, (first + 1).clamp_max(size - 1))


def alternate(even, odd, dim, size):
    """Inverse of :func:`halves`, cropped to ``size``."""
    k = torch.arange(size, device=even.device)
    return torch.cat((even, odd), dim).index_select(dim, k % 2 * even.shape[dim] + k // 2)


def _analyse(x, dim, wavelet):
    even, odd = halves(x, dim)
    low = high = 0
    for m, (h0, h1, g0, g1) in enumerate(_pairs(wavelet)):
        e, o = even.roll(1 - m, dim), odd.roll(2 - m, dim)
        low, high = low + h1 * e + h0 * o, high + g1 * e + g0 * o
    return low, high


def _synthesise(low, high, dim, size, wavelet):
    even = odd = 0
    for m, (h0, h1, g0, g1) in enumerate(_pairs(wavelet)):
        even = even + (h1 * low + g1 * high).roll(m - 1, dim)
        odd = odd + (h0 * low + g0 * high).roll(m - 2, dim)
    return alternate(even, odd, dim, size)


def dwt2d(x, wavelet):
    """One level of the 2-D transform.

    Args:
        x: (B, C, H, W) float tensor; an odd side is extended by repeating its last row or column.
        wavelet: 'db4' or 'sym4'.

    Returns:
        ``(ll, lh, hl, hh)``, each (B, C, ceil(H/2), ceil(W/2)), the dtype of ``x``.

    Raises:
        ValueError: when ``x`` is not 4-dimensional.
    """
    if x.dim() != 4:
        raise ValueError(f'dwt2d takes a (B, C, H, W) tensor, got shape {tuple(x.shape)}')
    low, high = _analyse(x, 3, wavelet)
    (ll, lh), (hl, hh) = _analyse(low, 2, wavelet), _analyse(high, 2, wavelet)
    return ll, lh, hl, hh


def idwt2d(ll, lh, hl, hh, wavelet, size=None):
    """Inverse of :func:`dwt2d`.

    Args:
        ll, lh, hl, hh: bands, each (B, C, h, w).
        wavelet: 'db4' or 'sym4'.
        size: ``(H, W)`` of the picture to crop to, where a side was odd. Default ``(2h, 2w)``.

    Returns:
        (B, C, H, W) tensor.
    """
    height, width = size if size is not None else (2 * ll.shape[2], 2 * ll.shape[3])
    low, high = _synthesise(ll, lh, 2, height, wavelet), _synthesise(hl, hh, 2, height, wavelet)
    return _synthesise(low, high, 3, width, wavelet)
