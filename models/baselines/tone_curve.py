"""How far the statistics of a picture go: an MLP reads 123 numbers of it and answers with one curve, residual over grey.

It sees no shapes and no places beyond a 4x4 grid, so what P-IEANet does better is what looking at the picture brings. A change of exposure is
one tone curve for the whole picture, which makes this a strong simple method; local light is beyond it.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from ..grid import to_grid
from ..p_ieanet import luma
from ..released import wide
from .common import Settings, check_input, start_from_zero

SIDE = 128  # the statistics are those of the picture squeezed to a square of this size
COUNT = 123
SCALES = 4


def statistics(x):
    """(B, 3, H, W) RGB on [0, 1] -> (B, COUNT): quantiles of grey, of the largest and the smallest channel and of saturation, mean colour,
    clipped shares, grey on a 4x4 grid, and quantiles of the steps between neighbours, in grey and in log grey, at four scales."""
    x = to_grid(wide(x), SIDE)
    grey, high, low = luma(x), x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    found = [quantiles(grey, 33), *(quantiles(v, 9) for v in (high, low, (high - low) / (high + 0.01)))]
    found += [x.mean((2, 3)), torch.cat([v.float().mean((2, 3)) for v in (grey > 0.97, grey < 0.03, high > 0.99, low < 0.01)], 1)]
    found.append(F.adaptive_avg_pool2d(grey, 4).flatten(1))
    for _ in range(SCALES):
        found += [quantiles((v[..., 1:] - v[..., :-1]).abs(), 5) for v in (grey, (grey + 0.02).log())]
        grey = F.avg_pool2d(grey, 2)
    return torch.cat(found, 1)


def quantiles(v, count):
    """(B, 1, H, W) -> (B, count): quantiles from .01 to .99, as far apart as each other."""
    v = v.flatten(1).sort(1).values
    at = torch.linspace(0.01, 0.99, count, device=v.device) * (v.shape[1] - 1)
    return v[:, at.round().long()]


class ToneCurve(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W), a piecewise linear function of the pixel's grey.

    Args:
        width: hidden units of the MLP's two layers.
        knots: of the curve, evenly spread over grey.
        dropout: share of hidden units left out in training.
    """

    def __init__(self, width=128, knots=9, dropout=0.2):
        super().__init__()
        self.config = Settings(width=width, knots=knots, dropout=dropout)
        self.mlp = nn.Sequential(nn.BatchNorm1d(COUNT, affine=False, momentum=0.01), nn.Linear(COUNT, width), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), start_from_zero(nn.Linear(width, knots)))

    def forward(self, x):
        check_input(x)
        knots = self.config['knots']
        curve = wide(self.mlp(statistics(x)))
        at = torch.arange(knots, device=x.device)[:, None, None]
        near = F.relu(1 - (wide(luma(x)) * (knots - 1) - at).abs())  # (B, knots, H, W): how much of each knot's value a pixel gets
        return (curve[..., None, None] * near).sum(1, keepdim=True)
