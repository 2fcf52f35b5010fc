"""How far the statistics of a picture go: an MLP reads some numbers of it and answers with one curve, residual over grey.

It sees no shapes and no places beyond a 4x4 grid. A change of exposure is one tone curve for the whole picture, so this is a strong simple
method (``ToneCurve``), and a second opinion for P-IEANet, whose error is most of all one of the level (``ToneCurves``); local light is beyond it.
"""
import math

import numpy as np
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
    """(B, C, H, W) -> (B, C, H W), each channel sorted; several in one call, which threads may share."""
    values = maps.flatten(2)
    # Asked in this order, for a program that is exported must not ask for the mode. In it nothing follows what becomes of the numbers.
    plain = not (torch.compiler.is_compiling() or torch.jit.is_tracing()) and torch.is_inference_mode_enabled()
    if plain and values.device.type == 'cpu' and values.dtype != torch.bfloat16:
        # Numpy does not say where each value came from: some 30 times faster with AVX512, and a seventh of the network's time.
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort(2).values


def quantiles(values, count):
    """(B, C, any) ascending -> (B, C count): quantiles from .01 to .99, as far apart as each other."""
    at = torch.linspace(0.01, 0.99, count, device=values.device) * (values.shape[2] - 1)
    return values[:, :, at.round().long()].flatten(1)


class Standardise(nn.BatchNorm1d):
    """Numbers of any type less their mean, over their deviation, in the module's own; of a batch of one, which has no deviation, by the running ones.

    ``left_out``: share of the numbers that are left out (zero, their mean) in training; here, for a layer of its own would rename the weights of
    the layers after it.
    """

    def __init__(self, count, left_out=0.0):
        super().__init__(count, affine=False, momentum=0.01)
        self.left_out = left_out

    def forward(self, x):
        x = x.to(self.running_mean.dtype)
        if self.training and len(x) == 1:
            x = F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        else:
            x = super().forward(x)
        return F.dropout(x, self.left_out, self.training)


class ToneCurve(nn.Module):
    """(B, 3, H, W) RGB on [0, 1] -> residual (B, 1, H, W), a piecewise linear function of the pixel's grey.

    Args:
        width: hidden units of the MLP's two layers.
        knots: of the curve, evenly spread over grey; two or more.
        dropout: share of hidden units left out in training.
        context: channels of further features of the picture, whose means and deviations join the statistics; 0: none.
    """

    def __init__(self, width=128, knots=9, dropout=0.2, context=0):
        super().__init__()
        if knots < 2:
            raise ValueError(f'knots is {knots}, accepted: 2 or more')
        self.count = COUNT + 2 * context  # numbers of a picture that it reads
        self.mlp = nn.Sequential(Standardise(self.count), nn.Linear(self.count, width), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, knots))
        self.start()

    def start(self):
        """The last layer nearly answers zero, "all fine"."""
        nn.init.normal_(self.mlp[-1].weight, std=1e-3)
        nn.init.zeros_(self.mlp[-1].bias)

    def values(self, numbers):
        """(B, any) of :func:`describe` -> (B, knots), the residual at each."""
        return wide(self.mlp(numbers[:, :self.count]))

    def forward(self, x, context=None):
        return draw(self.values(describe(x, context)), luma(x))


class ToneCurves(nn.Module):
    """(B, 3, H, W) RGB on [0, 1] -> residual (B, 1, H, W): a curve for each kind of pictures, weighed by how likely the picture is of that kind.

    What is ideal depends on it: a photographer's picture may be dark, what was merged of a bracket hardly is. A kind's curve is the mean of two
    :class:`ToneCurve`, one of which reads the statistics alone: features of few scenes are soon known by heart.

    Args:
        kinds: of pictures; 1: no weighing.
        width: of each MLP. context: as of :class:`ToneCurve`; 0: one MLP a kind.
    """

    def __init__(self, kinds=2, width=96, context=0):
        super().__init__()
        self.members = nn.ModuleList(nn.ModuleList(ToneCurve(width, context=c) for c in sorted({0, context})) for _ in range(kinds))
        count = COUNT + 2 * context
        # Half of the numbers are left out in training, or it knows the few cameras of the brackets by heart and is sure where it is wrong.
        self.router = nn.Sequential(Standardise(count, left_out=0.5), nn.Linear(count, 64), nn.GELU(), nn.Dropout(0.3),
                                    nn.Linear(64, kinds)) if kinds > 1 else None
        self.told = None  # a kind: of which all pictures are, whatever the router says

    def start(self):
        for members in self.members:
            for member in members:
                member.start()

    def values(self, numbers):
        """(B, any) of :func:`describe` -> (B, knots), the residual at each."""
        if self.router is None or self.told is not None:
            return self.of_kind(self.told or 0, numbers)
        likely = wide(self.router(numbers)).softmax(1)
        return sum(likely[:, k, None] * self.of_kind(k, numbers) for k in range(len(self.members)))

    def of_kind(self, kind, numbers):
        members = self.members[kind]
        return sum(member.values(numbers) for member in members) / len(members)

    def forward(self, x, context=None):
        return draw(self.values(describe(x, context)), luma(x))


def describe(x, context=None):
    """The numbers of pictures (B, 3, H, W): (B, COUNT), and with (B, C, any, any) features of the same pictures (B, COUNT + 2 C)."""
    found = [statistics(x)]
    if context is not None:
        context = wide(context)
        found += [context.mean((2, 3)), context.std((2, 3))]
    return torch.cat(found, 1)


def draw(values, grey):
    """(B, knots) residuals at two or more knots evenly spread over [0, 1], grey (B, ...) on [0, 1] -> residual (B, ...), in grey's type."""
    knots = values.shape[1]
    at = wide(grey).flatten(1) * (knots - 1)
    # A line, and at each knot within what bends it: no (B, knots, H, W) in memory, and nothing that does not export.
    slopes = values.diff(dim=1)
    bends = slopes.diff(dim=1)
    residual = torch.addcmul(values[:, :1], slopes[:, :1], at)
    for k in range(1, knots - 1):
        residual = torch.addcmul(residual, bends[:, k - 1, None], F.relu(at - k))
    return residual.unflatten(1, grey.shape[1:]).to(grey.dtype)


def fit_curve(model, numbers, maps, weights=None, steps=4000, batch_size=256, pixels=256, lr=1e-3, weight_decay=0.05, seed=0):
    """Train a :class:`ToneCurve` by L1 on what was drawn once: 100,000 pictures are in memory, and a thousand steps take seconds.

    Args:
        numbers: (N, any) of :func:`describe`.
        maps: (N, 3, P), of P pixels of each picture its grey, its residual and 1 where the label is valid.
        weights: (N,) how often each picture is seen; None: all alike.
        steps, batch_size: steps of so many pictures. pixels: that a step sees of each picture, other ones every time.
        lr, weight_decay: of AdamW; 200 steps of warm-up, then a cosine to a hundredth.
        seed: of the choice of pictures and pixels and of the dropout; from the same weights it is the same fit.

    Returns:
        The model, in eval mode.

    Raises:
        ValueError: shapes that do not fit, or no pictures.
    """
    if not len(maps) or numbers.dim() != 2 or len(numbers) != len(maps) or maps.dim() != 3 or maps.shape[1] != 3:
        raise ValueError(f'numbers are {tuple(numbers.shape)} and maps {tuple(maps.shape)}, accepted: (N, any) and (N, 3, any), N > 0')

    def loss(chosen, generator):
        at = torch.randint(maps.shape[2], (pixels,), generator=generator)
        grey, residual, mask = maps[chosen][:, :, at].float().unbind(1)
        error = (draw(model.values(numbers[chosen].float()), grey) - residual).abs() * mask
        return error.sum() / mask.sum().clamp_min(1)
    return descend(model, loss, torch.ones(len(maps)) if weights is None else weights, steps, batch_size, lr, weight_decay, seed)


def fit_router(model, numbers, kinds, steps=2000, batch_size=256, lr=1e-3, weight_decay=0.1, seed=0):
    """Train the router of :class:`ToneCurves` to tell the kinds, (N,) of 0, 1 ..., from the numbers, each kind seen as often as any other."""
    counts = kinds.bincount(minlength=len(model.members)).clamp_min(1)

    def loss(chosen, generator):
        return F.cross_entropy(model.router(numbers[chosen].float()), kinds[chosen])
    descend(model.router, loss, 1 / counts[kinds], steps, batch_size, lr, weight_decay, seed)


def fit_curves(model, numbers, maps, kinds, near=0.15, steps=4000, seed=0):
    """Train :class:`ToneCurves`, curve by curve and the router.

    Args:
        numbers, maps: as of :func:`fit_curve`.
        kinds: (N,) of each picture 0 (photographs), 1 ...
        near: photographs whose mean residual is below about this are seen up to eleven times as often as those that are far off, because most
            are nearly right.
        steps: of each curve, half as many of the router; of few pictures less, some twenty passes.

    Returns:
        The model, in eval mode.

    Raises:
        ValueError: shapes that do not fit, or a kind without pictures.
    """
    if missing := set(range(len(model.members))) - set(kinds.tolist()):
        raise ValueError(f'no picture is of kind {min(missing)}')
    steps = min(steps, 100 + 20 * len(maps) // 256)
    valid = maps[:, 2].float()
    level = (maps[:, 1].float() * valid).sum(1) / valid.sum(1).clamp_min(1)
    for kind, members in enumerate(model.members):
        weights = (kinds == kind).float()
        if kind == 0:
            weights *= 0.1 + torch.exp(-(level / near) ** 2)
        for number, member in enumerate(members):
            fit_curve(member, numbers, maps, weights, steps, seed=seed + 10 * kind + number)
    if model.router is not None:
        fit_router(model, numbers, kinds, steps // 2, seed=seed)
    return model.eval()


def descend(model, loss, weights, steps, batch_size, lr, weight_decay, seed):
    """AdamW on loss(the batch's pictures, generator), pictures drawn by their weights, with warm-up and cosine. Returns the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    warmup = max(1, min(200, steps // 5))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))))
    model.train()
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        for _ in range(steps):
            chosen = torch.multinomial(weights, batch_size, replacement=True, generator=generator)
            optimizer.zero_grad()
            loss(chosen, generator).backward()
            optimizer.step()
            schedule.step()
    return model.eval()
