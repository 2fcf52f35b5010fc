"""A small NAFNet (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022): gates instead of activations, in a U."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .common import Settings, check_input, pad_to_multiple, start_from_zero


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every pixel of (B, C, H, W)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def gate(x):
    """The paper's SimpleGate: one half of the channels times the other."""
    a, b = x.chunk(2, 1)
    return a * b


class Block(nn.Module):
    """The paper's Fig. 3c; both parts start as the identity."""

    def __init__(self, c):
        super().__init__()
        self.spatial = nn.Sequential(ChannelNorm(c), nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c))
        self.attention = nn.Conv2d(c, c, 1)  # "simplified channel attention", on the picture's means
        self.project = nn.Conv2d(c, c, 1)
        self.expand = nn.Sequential(ChannelNorm(c), nn.Conv2d(c, 2 * c, 1))
        self.contract = nn.Conv2d(c, c, 1)
        self.beta, self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1)), nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x):
        y = gate(self.spatial(x))
        x = x + self.beta * self.project(y * self.attention(y.mean((2, 3), keepdim=True)))
        return x + self.gamma * self.contract(gate(self.expand(x)))


class NAFNet(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    Args:
        width: channels at full size, doubled at each halving.
        down, middle, up: blocks on the way down (finest first), at the bottom and on the way up (coarsest first).
    """

    def __init__(self, width=16, down=(1, 1, 2), middle=2, up=(1, 1, 1)):
        super().__init__()
        if len(down) != len(up) or not down:
            raise ValueError(f'down is {down} and up {up}, accepted: equally many entries')
        self.config = Settings(width=width, down=tuple(down), middle=middle, up=tuple(up))
        widths = [width * 2 ** i for i in range(len(down) + 1)]
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Sequential(*(Block(c) for _ in range(n))) for c, n in zip(widths, down))
        self.halve = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, 2) for c in widths[:-1])
        self.middle = nn.Sequential(*(Block(widths[-1]) for _ in range(middle)))
        self.enlarge = nn.ModuleList(nn.Conv2d(c, 2 * c, 1, bias=False) for c in widths[:0:-1])
        self.up = nn.ModuleList(nn.Sequential(*(Block(c) for _ in range(n))) for c, n in zip(widths[-2::-1], up))
        self.last = start_from_zero(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x):
        check_input(x)
        h, w = x.shape[-2:]
        f, skips = self.first(pad_to_multiple(x, 2 ** len(self.down))), []
        for blocks, halve in zip(self.down, self.halve):
            f = blocks(f)
            skips.append(f)
            f = halve(f)
        f = self.middle(f)
        for enlarge, blocks in zip(self.enlarge, self.up):
            f = blocks(F.pixel_shuffle(enlarge(f), 2) + skips.pop())
        return self.last(f)[..., :h, :w]
