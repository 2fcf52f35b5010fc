"""Gated blocks in a U, after NAFNet (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022): products instead of activations.

The lightness branch and the NAFNet baseline are made of them. Each block weighs its channels by their means over the whole picture, so
what is seen anywhere can change what is said everywhere.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .grid import from_grid
from .haar import even
from .pointwise import Pointwise


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every pixel of (B, C, H, W): no statistic of the batch or of the picture's size enters."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def gate(x):
    """The paper's SimpleGate: one half of the channels times the other, (B, 2C, H, W) -> (B, C, H, W)."""
    a, b = x.chunk(2, 1)
    return a * b


def crop(x, size):
    """Back to ``size``, from a side that was odd and is extended."""
    return x[..., :size[0], :size[1]]


class GatedBlock(nn.Module):
    """The paper's Fig. 3c, (B, C, H, W) -> the same shape; both parts start as the identity."""

    def __init__(self, c):
        super().__init__()
        self.spatial = nn.Sequential(ChannelNorm(c), Pointwise(c, 2 * c), nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c))
        self.attention = Pointwise(c, c)  # "simplified channel attention", on the picture's means
        self.project = Pointwise(c, c)
        self.expand = nn.Sequential(ChannelNorm(c), Pointwise(c, 2 * c))
        self.contract = Pointwise(c, c)
        # Vectors: for parameters of shape (1, C, 1, 1) a compiled backward on a GPU gives gradients of shape (C,) (pytorch/pytorch#178080).
        self.beta, self.gamma = nn.Parameter(torch.zeros(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x):
        y = gate(self.spatial(x))
        x = torch.addcmul(x, self.beta[:, None, None], self.project(y * self.attention(y.mean((2, 3), keepdim=True))))
        return torch.addcmul(x, self.gamma[:, None, None], self.contract(gate(self.expand(x))))


class GatedUNet(nn.Module):
    """(B, width, H, W) -> the same shape, any size: down to 1 / 2 ** len(down) of it and up again, channels doubled at each halving.

    ``context`` (B, width * 2 ** len(down), any, any) is added at the bottom, resized.

    Args:
        width: channels at full size.
        down, middle, up: blocks on the way down (finest first), at the bottom and on the way up (coarsest first).

    Raises:
        ValueError: when ``down`` and ``up`` differ in length, or are empty.
    """

    def __init__(self, width, down=(1, 1, 2), middle=2, up=(1, 1, 1)):
        super().__init__()
        if len(down) != len(up) or not down:
            raise ValueError(f'down is {down} and up {up}, accepted: equally many entries')
        widths = [width * 2 ** i for i in range(len(down) + 1)]
        self.down = nn.ModuleList(nn.Sequential(*(GatedBlock(c) for _ in range(n))) for c, n in zip(widths, down))
        self.halve = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, 2) for c in widths[:-1])
        self.middle = nn.Sequential(*(GatedBlock(widths[-1]) for _ in range(middle)))
        self.enlarge = nn.ModuleList(Pointwise(c, 2 * c, bias=False) for c in widths[:0:-1])
        self.up = nn.ModuleList(nn.Sequential(*(GatedBlock(c) for _ in range(n))) for c, n in zip(widths[-2::-1], up))
        self.extend, self.crop = even, crop  # export_onnx.py puts others in their place

    def forward(self, f, context=None):
        skips = []
        for blocks, halve in zip(self.down, self.halve):
            f = blocks(f)
            skips.append(f)
            f = halve(self.extend(f))
        if context is not None:
            f = f + from_grid(context, f.shape[-2:])
        f = self.middle(f)
        for enlarge, blocks in zip(self.enlarge, self.up):
            skip = skips.pop()
            f = blocks(self.crop(F.pixel_shuffle(enlarge(f), 2), skip.shape[-2:]) + skip)
        return f
