"""What grey means here, and where it is computed in full precision."""
import torch

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, PIL's mode 'L'


def luma(x):
    """(B, 3, H, W) RGB -> (B, 1, H, W) grey, ITU-R 601, the range of ``x``."""
    r, g, b = x.unbind(1)
    # As the last axis at first: so strided, it joins channels_last pictures without their being put in order anew.
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b)[..., None].movedim(-1, 1)


def wide(x):
    """As float32 at least: where there is little to compute, bfloat16 costs accuracy and gains nothing."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
