"""Orthonormal Haar wavelet transform, written as additions of the four pixels of a 2x2 block.

    block  a b      ll = (a + b + c + d) / 2     approximation (lightness)
           c d      lh = (a + b - c - d) / 2     difference of rows: horizontal edges
                    hl = (a - b + c - d) / 2     difference of columns: vertical edges
                    hh = (a - b - c + d) / 2     diagonal

Band order and signs equal PyWavelets' ``dwt2(x, 'haar')`` -> ``ll, (lh, hl, hh)``. The four rows above are orthonormal, so energy is
kept and the inverse is the same additions again. No convolution and no weights: nothing to move between devices or to cast.
"""
import torch


def even(x):
    """(B, C, H, W) with the last row and column repeated where their number is odd.

    Joined rather than padded: compiled, the gradient of replicate padding fails on channels_last maps (torch 2.15).
    """
    if x.shape[-2] % 2:
        x = torch.cat((x, x[..., -1:, :]), 2)
    if x.shape[-1] % 2:
        x = torch.cat((x, x[..., -1:]), 3)
    return x


def haar_dwt2d(x):
    """One level of the 2-D Haar transform.

    Args:
        x: (B, C, H, W) float tensor; an odd side is extended by repeating its last row or column.

    Returns:
        ``(ll, lh, hl, hh)``, each (B, C, ceil(H/2), ceil(W/2)), the dtype of ``x``.

    Raises:
        ValueError: when ``x`` is not 4-dimensional.
    """
    if x.dim() != 4:
        raise ValueError(f'haar_dwt2d takes a (B, C, H, W) tensor, got shape {tuple(x.shape)}')
    x = even(x)
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    top, bottom, left, right = a + b, c + d, a - b, c - d
    return (top + bottom) / 2, (top - bottom) / 2, (left + right) / 2, (left - right) / 2


def haar_idwt2d(ll, lh, hl, hh, size=None):
    """Inverse of :func:`haar_dwt2d`.

    Args:
        ll, lh, hl, hh: bands, each (B, C, h, w).
        size: ``(H, W)`` of the picture to crop to, where a side was odd. Default ``(2h, 2w)``.

    Returns:
        (B, C, H, W) tensor.

    Raises:
        ValueError: when the bands differ in shape or ``size`` does not belong to them.
    """
    if not ll.shape == lh.shape == hl.shape == hh.shape:
        raise ValueError(f'bands differ in shape: {[tuple(t.shape) for t in (ll, lh, hl, hh)]}')
    b, ch, h, w = ll.shape
    height, width = size if size is not None else (2 * h, 2 * w)
    if (height + 1) // 2 != h or (width + 1) // 2 != w:
        raise ValueError(f'size {(height, width)} does not belong to bands of {h}x{w}')
    top, bottom, left, right = ll + lh, ll - lh, hl + hh, hl - hh
    rows = torch.stack((torch.stack((top + left, top - left), -1),
                        torch.stack((bottom + right, bottom - right), -1)), -3)  # (B, C, h, 2, w, 2)
    return (rows / 2).reshape(b, ch, 2 * h, 2 * w)[..., :height, :width]
