"""The idea of MSLT (Zhou et al., "4K-Resolution Photo Exposure Correction at 125 FPS with ~8K Parameters", WACV 2024).

A Laplacian pyramid; its coarsest layer is corrected by affine colour transforms that a tiny network writes into a bilateral grid, its finer
layers by masks. All convolutions are 1x1: neighbourhoods enter by the pyramid and the grid only.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from ..grid import to_grid
from ..grey import wide
from .common import Settings, check_input, residual_of, start_from_zero


class Decompose(nn.Module):
    """Context-aware decomposition: what a gate on the channels' means and deviations lets through, and what it holds back."""

    def __init__(self, c):
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(2 * c, c, 1), nn.ReLU(), nn.Conv2d(c, c, 1), nn.Sigmoid())

    def forward(self, x):
        spread, mean = torch.var_mean(wide(x), (2, 3), keepdim=True, correction=0)
        let_through = x * self.gate(torch.cat((mean, (spread + 1e-6).sqrt()), 1))
        return let_through, x - let_through


class MSLT(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    Args:
        width: channels of the 1x1 convolutions.
        levels: fine layers of the pyramid above the coarsest.
        side, bins: the bilateral grid's cells across the picture and across brightness.
    """

    def __init__(self, width=24, levels=3, side=16, bins=6):
        super().__init__()
        if levels < 1:
            raise ValueError(f'levels is {levels}, accepted: 1 or more')
        self.config = Settings(width=width, levels=levels, side=side, bins=bins)
        self.embed = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU())
        self.decompose = nn.ModuleList(Decompose(width) for _ in range(2))
        self.merge = nn.Sequential(nn.Conv2d(3 * width, width, 1), nn.ReLU())
        self.transforms = start_from_zero(nn.Conv2d(width, 12 * bins, 1))
        self.guide = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid())
        self.first_mask = nn.Sequential(nn.Conv2d(9, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))
        self.masks = nn.ModuleList(nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)) for _ in range(levels - 1))
        with torch.no_grad():  # the transform starts as the identity, the masks as one
            self.transforms.bias.view(3, 4, bins)[range(3), range(3)] = 1
            for mask in (self.first_mask, *self.masks):
                start_from_zero(mask[-1]).bias.fill_(1)

    def forward(self, x):
        check_input(x)
        low, fine = x, []
        for _ in range(self.config['levels']):
            smaller = resized(low, tuple((n + 1) // 2 for n in low.shape[-2:]))
            fine.append(low - resized(smaller, low.shape[-2:]))
            low = smaller
        y = self.correct(low)
        layer = fine.pop()
        size = layer.shape[-2:]
        mask = self.first_mask(torch.cat((layer, resized(low, size), resized(y, size)), 1))
        y = resized(y, size) + mask * layer
        for refine in self.masks:
            layer = fine.pop()
            size = layer.shape[-2:]
            mask = refine(torch.cat((layer, resized(mask, size)), 1))
            y = resized(y, size) + mask * layer
        return residual_of(y, x)

    def correct(self, low):
        """The coarsest layer (B, 3, h, w) after the transforms that the grid has for its places and brightness."""
        side, bins = self.config['side'], self.config['bins']
        kept, f = [], self.embed(to_grid(low, 2 * side))
        for decompose in self.decompose:
            part, f = decompose(f)
            kept.append(part)
        f = self.merge(torch.cat((*kept, f), 1))
        grid = wide(self.transforms(to_grid(f, side))).unflatten(1, (12, bins))
        brightness = wide(self.guide(low))[:, 0] * 2 - 1
        h, w = low.shape[-2:]
        rows, columns = (torch.linspace(1 / n - 1, 1 - 1 / n, n, device=low.device, dtype=grid.dtype) for n in (h, w))
        places = torch.stack((columns.expand(h, w), rows[:, None].expand(h, w)), -1).expand(len(low), h, w, 2)
        at = torch.cat((places, brightness[..., None]), -1)[:, None]
        a = F.grid_sample(grid, at, padding_mode='border', align_corners=False)[:, :, 0].unflatten(1, (3, 4))
        return (a[:, :, :3] * low[:, None]).sum(2) + a[:, :, 3]


def resized(x, size):
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)
