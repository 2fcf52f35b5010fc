"""1x1 convolution, on one thread of a CPU too by the fast library."""
import torch
import torch.nn as nn
import torch.nn.functional as F

LARGE = 20480  # numbers above which PyTorch gives a single picture to oneDNN


class Pointwise(nn.Conv2d):
    """(B, inside, H, W) -> (B, outside, H, W), each pixel by itself.

    Where there is one thread, PyTorch computes 1x1 convolutions without oneDNN, for channels_last maps in twice the time, unless they are
    dilated (`use_mkldnn` in its Convolution.cpp); a kernel of one pixel has nothing to dilate. Not so what oneDNN does not get at all: small maps
    and other types than float32 would meet a slow kernel for dilated ones.
    """

    def __init__(self, inside, outside, bias=True):
        super().__init__(inside, outside, 1, bias=bias)

    def dilates(self, x):
        """Whether dilation makes it faster."""
        return (x.device.type == 'cpu' and x.dtype == torch.float32 and x.stride(1) == 1 and x.numel() > LARGE and self.out_channels > 1
                and torch.get_num_threads() == 1 and torch.backends.mkldnn.is_available())

    def forward(self, x):
        if torch.compiler.is_compiling() or not self.dilates(x):
            return super().forward(x)
        return F.conv2d(x, self.weight, self.bias, dilation=2)
