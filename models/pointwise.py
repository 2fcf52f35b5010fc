"""1x1 convolution, on one thread of a CPU too by the fast library."""
import torch
import torch.nn as nn
import torch.nn.functional as F

LARGE = 20480  # numbers from which on PyTorch gives a single picture to oneDNN


class Pointwise(nn.Conv2d):
    """(B, inside, H, W) -> (B, outside, H, W), each pixel by itself.

    Where there is one thread, PyTorch computes 1x1 convolutions without oneDNN, in twice the time (`use_mkldnn` in its Convolution.cpp); dilated
    ones it does not, and a kernel of one pixel has nothing to dilate.
    """

    def __init__(self, inside, outside, bias=True):
        super().__init__(inside, outside, 1, bias=bias)

    def forward(self, x):
        if torch.compiler.is_compiling() or x.device.type != 'cpu' or torch.get_num_threads() > 1 or x.numel() <= LARGE:
            return super().forward(x)
        return F.conv2d(x, self.weight, self.bias, dilation=2)
