"""A small NAFNet (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022): gates instead of activations, in a U."""
import torch.nn as nn

from ..gated import GatedUNet
from .common import Settings, check_input, start_from_zero


class NAFNet(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    Args:
        width: channels at full size, doubled at each halving.
        down, middle, up: blocks on the way down (finest first), at the bottom and on the way up (coarsest first).
    """

    def __init__(self, width=16, down=(1, 1, 2), middle=2, up=(1, 1, 1)):
        super().__init__()
        self.config = Settings(width=width, down=tuple(down), middle=middle, up=tuple(up))
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = GatedUNet(width, down, middle, up)
        self.last = start_from_zero(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x):
        check_input(x)
        return self.last(self.body(self.first(x)))
