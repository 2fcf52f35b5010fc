"""Lightness feature module (LFM) on the approximation band: how bright, over all and locally. Paper section 3, Eq. 5 and 6."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .grid import GridTransformer, from_grid, to_grid


class ConvBlock(nn.Module):
    """Residual block: depthwise 7x7, channel norm, pointwise MLP. (B, C, H, W) -> the same shape.

    The norm is over channels at each pixel, so no statistic of the batch or of the picture's size enters.
    """

    def __init__(self, dim, expansion=2, kernel=7):
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))

    def forward(self, x):
        return x + self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


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


class LightnessPixelAttention(nn.Module):
    """LPA, Eq. 6: A_p = sigmoid(sum_k w_k Conv_k(ReLU(SelfAttention(F_c)))). Returns A_p, (B, 1, H, W).

    Large kernels answer to overall brightness, small ones to local clipping. The self-attention runs on the fixed grid.
    """

    def __init__(self, dim, heads, grid, kernels):
        super().__init__()
        self.attention = GridTransformer(dim, dim, heads, 1, grid)
        self.convs = nn.ModuleList(nn.Conv2d(dim, 1, k, padding=k // 2) for k in kernels)
        self.weights = nn.Parameter(torch.full((len(kernels),), 1 / len(kernels)))

    def forward(self, x):
        y = F.relu(x + from_grid(self.attention(x), x.shape[-2:]))
        # Means over the window instead of sums: thousands of inputs that are never negative would drive the sigmoid into saturation at once.
        return torch.sigmoid(sum(w * conv(y) / conv.kernel_size[0] ** 2 for w, conv in zip(self.weights, self.convs)))


class LightnessFeatureModule(nn.Module):
    """LFM: features of the approximation band, weighted by channel and by pixel, then fused.

    Args:
        in_dim: channels of the band (3).
        dim: channels inside and out.
        depth: residual blocks before the attentions; the paper leaves the features L_c open.
        heads, grid: of the attention. context: Transformer layers on the grid between the blocks.
        kernels: odd kernel sizes K of Eq. 6.

    forward: (B, in_dim, h, w) -> A_o (B, dim, h, w); with ``return_features`` also a dict of the attention maps.
    """

    def __init__(self, in_dim, dim, depth, context, heads, grid, kernels):
        super().__init__()
        self.embed = nn.Conv2d(in_dim, dim, 3, padding=1)
        self.blocks = nn.Sequential(*(ConvBlock(dim) for _ in range(depth)))
        self.context = GridTransformer(dim, dim, heads, context, grid)
        self.channel_attention = LightnessChannelAttention(dim, grid)
        self.pixel_attention = LightnessPixelAttention(dim, heads, grid, kernels)
        self.fuse = nn.Sequential(nn.Conv2d(2 * dim, dim, 1), nn.GELU(), nn.Conv2d(dim, dim, 1))

    def forward(self, ll, return_features=False):
        x = self.blocks(self.embed(ll))
        x = x + from_grid(self.context(x), x.shape[-2:])
        a_c = self.channel_attention(x)
        f_c = a_c * x
        a_p = self.pixel_attention(f_c)
        a_o = self.fuse(torch.cat((f_c, a_p * x), 1))
        if return_features:
            return a_o, {'channel_attention': a_c, 'pixel_attention': a_p, 'lightness': a_o}
        return a_o
