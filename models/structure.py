"""Structure feature module (SFM) on the detail bands: gradients, near and far. Paper section 3, Eq. 2 to 4."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .gated import ChannelNorm, GatedBlock
from .grid import GridTransformer, from_grid
from .pointwise import Pointwise

# The paper's D: +x, -x, +y, -y, +x+y, +x-y, -x+y, -x-y as (dx, dy), x to the right, y down.
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


def neighbour(z, step, dim):
    """``z`` moved so that every place shows its neighbour ``step`` (-1, 0, 1) further along ``dim``; the border repeats.

    Two parts joined: compiled for the CPU, three parts or replicate padding give NaN gradients on channels_last maps (torch 2.15).
    """
    n = z.shape[dim]
    if step == 1:
        return torch.cat((z.narrow(dim, 1, n - 1), z.narrow(dim, n - 1, 1)), dim)
    return torch.cat((z.narrow(dim, 0, 1), z.narrow(dim, 0, n - 1)), dim) if step else z


def gradient_maps(z):
    """First-order differences to the neighbour in each of the eight directions, Eq. 2.

    Args:
        z: (B, C, H, W).

    Returns:
        (B, 8, C, H, W): ``out[:, d, :, y, x] = z[:, :, y + dy, x + dx] - z[:, :, y, x]`` with ``(dx, dy) = DIRECTIONS[d]``; the border is
        repeated outwards, so a difference across it is zero.
    """
    rows = {dy: neighbour(z, dy, 2) for dy in (-1, 0, 1)}
    return torch.stack([neighbour(rows[dy], dx, 3) - z for dx, dy in DIRECTIONS], 1)


class LongRangeEncoder(nn.Module):
    """LRE, Eq. 3: a Transformer whose tokens are the fixed grid. (B, in_dim, H, W) -> (B, out_dim, H, W)."""

    def __init__(self, in_dim, out_dim, dim, heads, depth, grid):
        super().__init__()
        self.transformer = GridTransformer(in_dim, dim, heads, depth, grid)
        self.out = Pointwise(dim, out_dim)

    def forward(self, x):
        return from_grid(self.out(self.transformer(x)), x.shape[-2:])


class ShortRangeEncoder(nn.Module):
    """SRE, Eq. 3: a CNN, depthwise 3x3 and pointwise. (B, in_dim, H, W) -> (B, out_dim, H, W)."""

    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(in_dim, in_dim, 3, padding=1, groups=in_dim), Pointwise(in_dim, out_dim), nn.GELU(),
                                 nn.Conv2d(out_dim, out_dim, 3, padding=1))

    def forward(self, x):
        return self.net(x)


class StructureLayer(nn.Module):
    """Eq. 2 to 4 for one z_i: (B, C, H, W) -> [F_i(l_i, s_i), F_i(grad l_i, grad s_i)] as bands lh, hl, hh, each (B, C, H, W)."""

    def __init__(self, dim, token_dim, heads, grid):
        super().__init__()
        self.norm = ChannelNorm(dim)  # gradients and encoders meet the same range in every picture, be it dark or bright
        self.long = LongRangeEncoder(dim, dim, token_dim, heads, 1, grid)
        self.short = ShortRangeEncoder(dim, dim)
        # The eight difference maps go in together: one call instead of eight modules.
        self.grad_long = LongRangeEncoder(8 * dim, dim, token_dim, heads, 1, grid)
        self.grad_short = ShortRangeEncoder(8 * dim, dim)
        self.fuse = Pointwise(2 * dim, dim)
        self.grad_fuse = Pointwise(2 * dim, dim)
        self.bands = Pointwise(2 * dim, 3 * dim)

    def forward(self, z):
        z = self.norm(z)
        # Rectified: an unrectified difference, pooled to the grid, would vanish, and a linear map of it would be a mere convolution.
        grad = F.relu(gradient_maps(z)).flatten(1, 2)
        maps = {'long': self.long(z), 'short': self.short(z), 'grad_long': self.grad_long(grad), 'grad_short': self.grad_short(grad)}
        fused = F.gelu(self.fuse(torch.cat((maps['long'], maps['short']), 1)))
        grad_fused = F.gelu(self.grad_fuse(torch.cat((maps['grad_long'], maps['grad_short']), 1)))
        return self.bands(torch.cat((fused, grad_fused), 1)).chunk(3, 1), maps


class StructureFeatureModule(nn.Module):
    """SFM: a multi-layer encoder gives z_1 .. z_N, one per DWT level; each goes through :class:`StructureLayer`.

    Args:
        in_dim: channels of a level's three detail bands stacked (9).
        dims: channels of z_i, finest level first.
        token_dim, heads, grid: of the long-range encoders.

    forward: list of N detail tensors (B, in_dim, h_i, w_i), finest first -> list of N triples (lh, hl, hh) of (B, dims[i], h_i, w_i);
    with ``return_features`` also a dict of the four maps of every level.
    """

    def __init__(self, in_dim, dims, token_dim, heads, grid):
        super().__init__()
        self.embed = nn.ModuleList(nn.Conv2d(in_dim, d, 3, padding=1) for d in dims)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(dims, dims[1:]))
        self.blocks = nn.ModuleList(GatedBlock(d) for d in dims)
        self.layers = nn.ModuleList(StructureLayer(d, token_dim, heads, grid) for d in dims)

    def forward(self, details, return_features=False):
        out, features, z = [], {}, None
        for i, (embed, layer, detail) in enumerate(zip(self.embed, self.layers, details)):
            z = embed(detail) if z is None else embed(detail) + self.down[i - 1](z)
            z = self.blocks[i](z)
            bands, maps = layer(z)
            out.append(bands)
            features.update({f'{name}_{i + 1}': m for name, m in maps.items()})
        return (out, features) if return_features else out
