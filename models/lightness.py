"""Lightness feature module (LFM) on the approximation band: how bright, over all and locally. Paper section 3, Eq. 5 and 6."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .gated import GatedUNet
from .grid import GridTransformer, from_grid, to_grid
from .pointwise import Pointwise


class LightnessChannelAttention(nn.Module):
    """LCA, Eq. 5: A_c = sigmoid(MLP(ReLU(MLP(GlobalAvgPool(L_c))))). Returns A_c, (B, C, 1, 1)."""

    def __init__(self, dim, grid, reduction=4):
        super().__init__()
        self.grid = grid
        hidden = max(8, dim // reduction)
        self.squeeze = nn.Linear(dim, hidden)
        self.excite = nn.Linear(hidden, dim)

    def forward(self, x):
        pooled = to_grid(x, self.grid).mean((2, 3))
        return torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))[:, :, None, None]


def sum_of_kernels(kernels):
    """Convolution is linear: odd kernels (O, C, k, k) of several sizes, each in the middle of the largest's size, summed."""
    largest = max(kernel.shape[-1] for kernel in kernels)
    return sum(F.pad(kernel, 4 * [(largest - kernel.shape[-1]) // 2]) for kernel in kernels)


def by_rows(x, kernel, bias):
    """``conv2d(x, kernel, bias)`` of (B, C, H, W) with zeros around, for a kernel (1, C, k, k) of one output: (B, 1, H, W).

    On a CPU the kernel's k rows are convolved as k outputs and their answers, each moved by its row, summed: the same products, but one output
    at a time leaves a processor's wide registers empty (five times slower for k = 11).
    """
    k, height = kernel.shape[-1], x.shape[2]
    if torch.compiler.is_compiling() or x.device.type != 'cpu':
        return F.conv2d(x, kernel, bias, padding=k // 2)
    rows = F.conv2d(x, kernel[0].transpose(0, 1)[:, :, None], padding=(0, k // 2))
    rows = F.pad(rows, (0, 0, k // 2, k // 2))
    return sum(rows[:, i:i + 1, i:i + height] for i in range(k)) + bias


class LightnessPixelAttention(nn.Module):
    """LPA, Eq. 6: A_p = sigmoid(sum_k w_k Conv_k(ReLU(SelfAttention(F_c)))). Returns A_p, (B, 1, H, W).

    Large kernels answer to overall brightness, small ones to local clipping. The self-attention runs on the fixed grid; what it says is
    added to F_c and brought to a few channels, which are all that the large kernels have to run over.
    """

    def __init__(self, dim, heads, grid, kernels, hidden=8):
        super().__init__()
        self.attention = GridTransformer(dim, dim, heads, 1, grid)
        self.narrow = Pointwise(dim, hidden)
        self.convs = nn.ModuleList(nn.Conv2d(hidden, 1, k, padding=k // 2) for k in kernels)
        self.weights = nn.Parameter(torch.full((len(kernels),), 1 / len(kernels)))

    def forward(self, x):
        y = F.relu(self.narrow(x + from_grid(self.attention(x), x.shape[-2:])))
        # Means over the window instead of sums: hundreds of inputs that are never negative would drive the sigmoid into saturation at once.
        shares = [w / conv.kernel_size[0] ** 2 for w, conv in zip(self.weights, self.convs)]
        return torch.sigmoid(by_rows(y, sum_of_kernels([s * conv.weight for s, conv in zip(shares, self.convs)]),
                                     sum(s * conv.bias for s, conv in zip(shares, self.convs))))


class Context(nn.Sequential):
    """What joins in at the bottom of the U: features of another network, normalised, to the U's channels; nothing before it is trained."""

    def __init__(self, inside, outside):
        super().__init__(nn.BatchNorm2d(inside, affine=False, momentum=0.02), nn.Dropout2d(0.2), Pointwise(inside, outside, bias=False))

    def start(self):
        nn.init.zeros_(self[-1].weight)


class LightnessFeatureModule(nn.Module):
    """LFM: features of the approximation band, weighted by channel and by pixel, then fused.

    Args:
        in_dim: channels of the band (3).
        dim: channels inside and out.
        down, middle: gated blocks of the U that makes the features L_c, which the paper leaves open (:class:`models.gated.GatedUNet`).
        heads, grid: of the attention.
        kernels: odd kernel sizes K of Eq. 6.
        context: channels of further features of the picture, 0: none.

    forward: (B, in_dim, h, w), and where there are channels of context (B, context, any, any) -> A_o (B, dim, h, w); with
    ``return_features`` also a dict of the attention maps.
    """

    def __init__(self, in_dim, dim, down, middle, heads, grid, kernels, context=0):
        super().__init__()
        self.embed = nn.Conv2d(in_dim, dim, 3, padding=1)
        self.body = GatedUNet(dim, down, middle, (1,) * len(down))
        self.context = Context(context, dim * 2 ** len(down)) if context else None
        self.channel_attention = LightnessChannelAttention(dim, grid)
        self.pixel_attention = LightnessPixelAttention(dim, heads, grid, kernels)
        self.fuse = nn.Sequential(Pointwise(2 * dim, dim), nn.GELU(), Pointwise(dim, dim))

    def forward(self, ll, context=None, return_features=False):
        x = self.body(self.embed(ll), None if context is None else self.context(context))
        a_c = self.channel_attention(x)
        f_c = a_c * x
        a_p = self.pixel_attention(f_c)
        a_o = self.fuse(torch.cat((f_c, a_p * x), 1))
        if return_features:
            return a_o, {'channel_attention': a_c, 'pixel_attention': a_p, 'lightness': a_o}
        return a_o
