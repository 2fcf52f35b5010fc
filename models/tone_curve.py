"""How far the statistics of a picture go: an MLP reads some numbers of it and answers with one curve, residual over grey.

It sees no shapes and no places beyond a 4x4 grid. A change of exposure is one tone curve for the whole picture, so this is a strong simple
method, and a second opinion for P-IEANet, whose error is most of all one of the level; local light is beyond it.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from .grey import luma, wide
from .grid import to_grid

SIDE = 128  # the statistics are those of the picture squeezed to a square of this size
COUNT = 123
SCALES = 4


def statistics(x):
    """(B, 3, H, W) RGB on [0, 1] -> (B, COUNT): quantiles of grey, of the largest and the smallest channel and of saturation, mean colour,
    clipped shares, grey on a 4x4 grid, and quantiles of the steps between neighbours, in grey and in log grey, at four scales."""
    x = to_grid(wide(x), SIDE)
    grey, high, low = luma(x), x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    tones = ascending(torch.cat((grey, high, low, (high - low) / (high + 0.01)), 1))
    found = [quantiles(tones[:, :1], 33), quantiles(tones[:, 1:], 9)]
    found += [x.mean((2, 3)), torch.cat([v.float().mean((2, 3)) for v in (grey > 0.97, grey < 0.03, high > 0.99, low < 0.01)], 1)]
    found.append(F.adaptive_avg_pool2d(grey, 4).flatten(1))
    for _ in range(SCALES):
        both = torch.cat((grey, (grey + 0.02).log()), 1)
        found.append(quantiles(ascending((both[..., 1:] - both[..., :-1]).abs()), 5))
        grey = F.avg_pool2d(grey, 2)
    return torch.cat(found, 1)


def ascending(maps):
    """(B, C, H, W) -> (B, C, H W), each channel sorted; several in one call, which a CPU's threads share."""
    return maps.flatten(2).sort(2).values


def quantiles(values, count):
    """(B, C, any) ascending -> (B, C count): quantiles from .01 to .99, as far apart as each other."""
    at = torch.linspace(0.01, 0.99, count, device=values.device) * (values.shape[2] - 1)
    return values[:, :, at.round().long()].flatten(1)


class Standardise(nn.BatchNorm1d):
    """Numbers less their mean, over their deviation; of a batch of one, which has no deviation, by the running ones."""

    def forward(self, x):
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(x)


class ToneCurve(nn.Module):
    """(B, 3, H, W) RGB on [0, 1] -> residual (B, 1, H, W), a piecewise linear function of the pixel's grey.

    Args:
        width: hidden units of the MLP's two layers.
        knots: of the curve, evenly spread over grey.
        dropout: share of hidden units left out in training.
        context: channels of further features of the picture, whose means and deviations join the statistics; 0: none.
    """

    def __init__(self, width=128, knots=9, dropout=0.2, context=0):
        super().__init__()
        self.knots, numbers = knots, COUNT + 2 * context
        self.mlp = nn.Sequential(Standardise(numbers, affine=False, momentum=0.01), nn.Linear(numbers, width), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, knots))
        self.start()

    def start(self):
        """The last layer nearly answers zero, "all fine"."""
        nn.init.normal_(self.mlp[-1].weight, std=1e-3)
        nn.init.zeros_(self.mlp[-1].bias)

    def describe(self, x, context=None):
        """What the MLP reads: (B, COUNT), and with (B, C, any, any) features of the same picture (B, COUNT + 2 C)."""
        found = [statistics(x)]
        if context is not None:
            context = wide(context)
            found += [context.mean((2, 3)), context.std((2, 3))]
        return torch.cat(found, 1)

    def curve(self, numbers, grey):
        """(B, *) from :meth:`describe`, grey (B, any) on [0, 1] -> residual (B, any)."""
        values = wide(self.mlp(numbers.to(self.mlp[1].weight.dtype)))
        at = wide(grey) * (self.knots - 1)
        # How much of each knot's value a pixel gets, knot by knot: no (B, knots, H, W) in memory, and nothing that does not export.
        return sum(values[:, k, None] * F.relu(1 - (at - k).abs()) for k in range(self.knots))

    def forward(self, x, context=None):
        residual = self.curve(self.describe(x, context), luma(x).flatten(1))
        return residual.unflatten(1, (1, *x.shape[-2:])).to(x.dtype)


def fit_curve(model, numbers, maps, epochs=8, batch_size=256, pixels=256, lr=1e-3, weight_decay=0.05, seed=0):
    """Train a :class:`ToneCurve` by L1 on what was drawn once: 100,000 pictures are in memory, and a pass takes seconds.

    Args:
        numbers: (N, any) of :meth:`ToneCurve.describe`.
        maps: (N, 3, P), of P pixels of each picture its grey, its residual and 1 where the label is valid.
        epochs, batch_size: passes over the pictures. pixels: that a step sees of each picture, other ones every time.
        seed: of their order, of the pixels and of the dropout; from the same weights it is the same fit.
        lr, weight_decay: of AdamW; 200 steps of warm-up, then a cosine to a hundredth.

    Returns:
        The model, in eval mode.

    Raises:
        ValueError: shapes that do not fit, or no pictures.
    """
    if not len(maps) or numbers.dim() != 2 or len(numbers) != len(maps) or maps.dim() != 3 or maps.shape[1] != 3:
        raise ValueError(f'numbers are {tuple(numbers.shape)} and maps {tuple(maps.shape)}, accepted: (N, any) and (N, 3, any), N > 0')
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    batch_size = min(batch_size, len(maps))
    total = epochs * (len(maps) // batch_size)
    warmup = max(1, min(200, total // 5))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total))))
    model.train()
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        for _ in range(epochs):
            for chosen in torch.randperm(len(maps), generator=generator).split(batch_size)[:len(maps) // batch_size]:
                at = torch.randint(maps.shape[2], (pixels,), generator=generator)
                grey, residual, mask = maps[chosen][:, :, at].float().unbind(1)
                error = (model.curve(numbers[chosen].float(), grey) - residual).abs() * mask
                optimizer.zero_grad()
                (error.sum() / mask.sum().clamp_min(1)).backward()
                optimizer.step()
                schedule.step()
    return model.eval()
