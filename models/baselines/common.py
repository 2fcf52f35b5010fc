"""What the trained baselines share: settings for the checkpoint, the check of the input, padding, two ways to end in a residual map."""
import torch.nn as nn
import torch.nn.functional as F

from ..grey import luma, wide
from ..p_ieanet import MIN_SIZE


class Settings(dict):
    """The arguments that a network was made with, as a checkpoint stores them."""

    def to_dict(self):
        return dict(self)


def check_input(x):
    """
    Raises:
        ValueError: when ``x`` is not (B, 3, H, W) with H, W >= 32.
    """
    if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[-2:]) < MIN_SIZE:
        raise ValueError(f'the network takes (B, 3, H, W) with H, W >= {MIN_SIZE}, got {tuple(x.shape)}')


def pad_to_multiple(x, n):
    """Repeat the last column and row until both sides are multiples of ``n``; the caller cuts the map to size."""
    return F.pad(x, (0, -x.shape[-1] % n, 0, -x.shape[-2] % n), mode='replicate')


def residual_of(enhanced, x):
    """An enhancer's answer as a residual, as for the untrained ones: grey(enhanced) - grey(input), (B, 1, H, W) float32 at least."""
    return luma(wide(enhanced)) - luma(x)


def start_from_zero(conv):
    """A last convolution that nearly answers zero, "all fine", before it is trained; returns it."""
    nn.init.normal_(conv.weight, std=1e-3)
    nn.init.zeros_(conv.bias)
    return conv
