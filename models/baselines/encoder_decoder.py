"""An encoder-decoder with deep supervision: every scale of the decoder answers with a map of its own (as in Xie and Tu's
"Holistically-Nested Edge Detection", ICCV 2015), which the trainer holds against the label like the final one.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .common import Settings, check_input, start_from_zero


def convs(inputs, outputs):
    """Two 3x3 convolutions, normalised over groups of channels: a picture's map must not depend on its batch."""
    def one(c):
        return nn.Conv2d(c, outputs, 3, padding=1, bias=False), nn.GroupNorm(outputs // 8, outputs), nn.ReLU(inplace=True)
    return nn.Sequential(*one(inputs), *one(outputs))


class EncoderDecoder(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    In training mode the answer is (B, 1 + scales, H, W): the residual first, then the maps of the decoder's scales.

    Args:
        widths: channels of each scale, full size first; multiples of 8.
    """

    def __init__(self, widths=(16, 32, 64, 96, 128)):
        super().__init__()
        if len(widths) < 2 or any(w < 8 or w % 8 for w in widths):
            raise ValueError(f'widths are {widths}, accepted: two or more multiples of 8')
        self.config = Settings(widths=tuple(widths))
        self.encoder = nn.ModuleList(convs(a, b) for a, b in zip((3, *widths), widths))
        self.decoder = nn.ModuleList(convs(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.sides = nn.ModuleList(start_from_zero(nn.Conv2d(c, 1, 1)) for c in widths[-2::-1])
        self.fuse = nn.Conv2d(len(self.sides), 1, 1)
        nn.init.constant_(self.fuse.weight, 1 / len(self.sides))
        nn.init.zeros_(self.fuse.bias)

    def forward(self, x):
        check_input(x)
        f, skips = x, []
        for level, block in enumerate(self.encoder):
            f = block(F.max_pool2d(f, 2) if level else f)
            skips.append(f)
        f, maps = skips.pop(), []
        for block, side in zip(self.decoder, self.sides):
            skip = skips.pop()
            f = block(torch.cat((resized(f, skip), skip), 1))
            maps.append(resized(side(f), x))
        maps = torch.cat(maps, 1)
        final = self.fuse(maps)
        return torch.cat((final, maps), 1) if self.training else final


def resized(f, like):
    return F.interpolate(f, size=like.shape[-2:], mode='bilinear', align_corners=False)
