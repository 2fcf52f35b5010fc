"""A small Retinexformer (Cai et al., "Retinexformer: One-stage Retinex-based Transformer for Low-light Image Enhancement", ICCV 2023).

An estimator lights the picture up; a U of Transformer layers repairs the lit picture. Attention is among channels, so it costs linearly in
pixels, and is guided by the estimator's features.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from ..gated import ChannelNorm
from ..grey import wide
from .common import Settings, check_input, pad_to_multiple, residual_of, start_from_zero


class Attention(nn.Module):
    """The paper's Eq. 5-7: a head's C x C attention among channels, values weighted by the light features of the same pixel."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(dim, dim, 1)
        self.position = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False), nn.GELU(),
                                      nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False))

    def forward(self, x, light):
        b, c, h, w = x.shape
        q, k, values = self.qkv(x).chunk(3, 1)
        q, k, v = (t.reshape(b, self.heads, c // self.heads, h * w) for t in (q, k, values * light))
        with torch.autocast(x.device.type, enabled=False):  # sums over all pixels
            q, k = (F.normalize(wide(t), dim=-1) for t in (q, k))
            attention = (self.scale * (q @ k.mT)).softmax(-1)
        y = (attention.to(v.dtype) @ v).reshape(b, c, h, w)
        return self.out(y) + self.position(values)


class Layer(nn.Module):
    """Attention and a feed-forward part with a depthwise convolution, each added to its input."""

    def __init__(self, dim, heads):
        super().__init__()
        self.attention = Attention(dim, heads)
        self.feed = nn.Sequential(ChannelNorm(dim), nn.Conv2d(dim, 4 * dim, 1, bias=False), nn.GELU(),
                                  nn.Conv2d(4 * dim, 4 * dim, 3, padding=1, groups=4 * dim, bias=False), nn.GELU(),
                                  nn.Conv2d(4 * dim, dim, 1, bias=False))

    def forward(self, x, light):
        x = x + self.attention(x, light)
        return x + self.feed(x)


class Retinexformer(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    Args:
        width: channels at full size, doubled at each halving; a head has this many.
        levels: halvings.
    """

    def __init__(self, width=16, levels=2):
        super().__init__()
        self.config = Settings(width=width, levels=levels)
        widths = [width * 2 ** i for i in range(levels + 1)]
        self.estimate = nn.Sequential(nn.Conv2d(4, width, 1), nn.Conv2d(width, width, 5, padding=2, groups=width))
        self.light_map = start_from_zero(nn.Conv2d(width, 3, 1))
        self.first = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.down = nn.ModuleList(Layer(c, c // width) for c in widths[:-1])
        self.halve, self.halve_light = (nn.ModuleList(nn.Conv2d(c, 2 * c, 4, 2, 1, bias=False) for c in widths[:-1]) for _ in range(2))
        self.middle = Layer(widths[-1], widths[-1] // width)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(c, c // 2, 2, 2) for c in widths[:0:-1])
        self.merge = nn.ModuleList(nn.Conv2d(2 * c, c, 1, bias=False) for c in widths[-2::-1])
        self.up = nn.ModuleList(Layer(c, c // width) for c in widths[-2::-1])
        self.last = start_from_zero(nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x):
        check_input(x)
        h, w = x.shape[-2:]
        picture = pad_to_multiple(x, 2 ** len(self.down))
        light = self.estimate(torch.cat((picture, picture.mean(1, keepdim=True)), 1))
        lit = picture * (1 + self.light_map(light))  # the paper multiplies by the map itself; this one starts as the picture
        f, skips = self.first(lit), []
        for layer, halve, halve_light in zip(self.down, self.halve, self.halve_light):
            f = layer(f, light)
            skips.append((f, light))
            f, light = halve(f), halve_light(light)
        f = self.middle(f, light)
        for enlarge, merge, layer in zip(self.enlarge, self.merge, self.up):
            skip, light = skips.pop()
            f = layer(merge(torch.cat((enlarge(f), skip), 1)), light)
        return residual_of((lit + self.last(f))[..., :h, :w], x)
