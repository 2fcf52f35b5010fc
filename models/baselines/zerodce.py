"""Zero-DCE's network (Guo et al., "Zero-Reference Deep Curve Estimation for Low-Light Image Enhancement", CVPR 2020), supervised here.

Seven convolutions with symmetric skips predict a curve for every pixel and channel; the curve, applied to the picture, gives the ideal one.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from ..grey import wide
from .common import Settings, check_input, residual_of, start_from_zero


class ZeroDCE(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    Args:
        width: channels of the six hidden layers (the paper's 32).
        iterations: how often the quadratic curve is applied (its 8), each time with maps of its own.
    """

    def __init__(self, width=32, iterations=8):
        super().__init__()
        self.config = Settings(width=width, iterations=iterations)
        inputs = (3, width, width, width, 2 * width, 2 * width)
        self.convs = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in inputs)
        self.last = start_from_zero(nn.Conv2d(2 * width, 3 * iterations, 3, padding=1))

    def forward(self, x):
        check_input(x)
        f, waiting = x, []
        for i, conv in enumerate(self.convs):
            f = F.relu(conv(f if i < 4 else torch.cat((waiting.pop(), f), 1)))
            if i < 3:  # the first three are met again by the fifth, sixth and seventh convolution
                waiting.append(f)
        curves = torch.tanh(wide(self.last(torch.cat((waiting.pop(), f), 1))))
        y = x
        for a in curves.chunk(self.config['iterations'], 1):
            y = y + a * y * (1 - y)  # the paper's Eq. 1; stays on [0, 1]
        return residual_of(y, x)
