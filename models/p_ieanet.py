"""P-IEANet: pixel-level image exposure assessment, "Rethinking No-reference Image Exposure Assessment from Holism to Pixel"
(NeurIPS 2024), Fig. 4.

    picture -> Haar DWT -> ll -> LightnessFeatureModule  -> A_o \
                        -> lh, hl, hh -> StructureFeatureModule -> Z_o -> inverse DWT -> MLP -> exposure residual

residual = (ideal grey - this grey) / 255 on [-1, 1]: + underexposed, 0 ideal, - overexposed.

Where the paper is silent we measured. Two choices differ from a bare reading of it: the transform is repeated on the approximation
band (``levels``), so the lightness branch works where the picture is small; and the head predicts the gain that
would make the picture ideal and subtracts the picture itself (``head='gain'``), because the residual's fine detail is the picture's own.
"""
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn as nn
import torch.nn.functional as F

from .grid import to_grid
from .haar import haar_dwt2d, haar_idwt2d
from .lightness import LightnessFeatureModule
from .structure import StructureFeatureModule

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, PIL's mode 'L'
MIN_SIZE = 32


@dataclass(frozen=True)
class PIEANetConfig:
    """Everything that defines a P-IEANet; it travels inside the checkpoint."""
    levels: int = 3                    # how often the DWT is applied; 1 is the paper's figure
    width: int = 96                    # channels of the lightness branch
    depth: int = 4                     # residual blocks in the lightness branch
    context: int = 2                   # Transformer layers on the grid in the lightness branch
    structure_widths: tuple = (8, 16, 32)  # channels of z_1 .. z_levels, finest first
    token_width: int = 32              # channels of the structure branch's tokens
    heads: int = 4
    grid: int = 16                     # the fixed grid of everything global, tokens per side
    structure_grid: int = 8            # the same for the structure branch's long-range encoders
    kernels: tuple = (3, 7, 11)        # K of Eq. 6
    head: str = 'gain'                 # 'gain': ideal = picture * 2^g + d; 'residual': the paper's bare residual
    use_dwt: bool = True               # False: pixel-unshuffle instead of the wavelet (paper's Table 3)
    use_structure: bool = True         # False: a 1x1 embedding instead of the branch
    use_lightness: bool = True         # False: a 1x1 embedding instead of the branch

    def __post_init__(self):
        for name in ('structure_widths', 'kernels'):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON gives lists
        if self.levels < 1 or 2 ** self.levels > MIN_SIZE // 2:
            raise ValueError(f'levels is {self.levels}, accepted: 1 to 4')
        if len(self.structure_widths) != self.levels:
            raise ValueError(f'structure_widths has {len(self.structure_widths)} entries for {self.levels} levels')
        if self.head not in ('gain', 'residual'):
            raise ValueError(f"head is {self.head!r}, accepted: 'gain', 'residual'")
        if any(k < 1 or k % 2 == 0 for k in self.kernels) or not self.kernels:
            raise ValueError(f'kernels are {self.kernels}, accepted: odd numbers')

    def to_dict(self):
        return asdict(self)

    @classmethod
    def from_dict(cls, d):
        known = {f.name for f in fields(cls)}
        if unknown := set(d) - known:
            raise ValueError(f'unknown entries {sorted(unknown)}, known: {sorted(known)}')
        return cls(**d)


def luma(x):
    """(B, 3, H, W) RGB -> (B, 1, H, W) grey, ITU-R 601, the range of ``x``."""
    r, g, b = x.unbind(1)
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b)[:, None]


def apply_gain(grey, g, d, clamp=True):
    """The residual that a display-light gain of ``2**g`` and an offset ``d`` mean for a picture of this grey.

    Args:
        grey: (B, 1, H, W) on [0, 1].
        g, d: (B, 1, H, W) or broadcastable. With a display gamma of 2.2, one stop of scene light is 1/2.2 in ``g``.
        clamp: keep the ideal on [0, 1]; off in training, where a clamped pixel would have no gradient.

    Returns:
        residual (B, 1, H, W), on [-1, 1] when clamped.
    """
    ideal = grey * torch.exp2(g) + d
    return (ideal.clamp(0, 1) if clamp else ideal) - grey


def polyphase(x):
    """What stands in for the DWT when it is switched off: the four pixels of a block, unmixed (pixel-unshuffle)."""
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode='replicate')
    return x[..., 0::2, 0::2], x[..., 0::2, 1::2], x[..., 1::2, 0::2], x[..., 1::2, 1::2]


def inverse_polyphase(a, b, c, d, size):
    y = F.pixel_shuffle(torch.stack((a, b, c, d), 2).flatten(1, 2), 2)
    return y[..., :size[0], :size[1]]


class PIEANet(nn.Module):
    """forward: (B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    ``return_features=True`` adds a dict: lightness, channel_attention, pixel_attention, and long_i, short_i, grad_long_i,
    grad_short_i for each level i (paper's Fig. 5).

    Raises:
        ValueError: for an input of another shape, or smaller than 32 pixels on a side.
    """

    def __init__(self, config=PIEANetConfig()):
        super().__init__()
        self.config = c = config
        self.split, self.merge = (haar_dwt2d, haar_idwt2d) if c.use_dwt else (polyphase, inverse_polyphase)
        if c.use_lightness:
            self.lightness = LightnessFeatureModule(3, c.width, c.depth, c.context, c.heads, c.grid, c.kernels)
        else:
            self.lightness = nn.Conv2d(3, c.width, 1)
        if c.use_structure:
            self.structure = StructureFeatureModule(9, c.structure_widths, c.token_width, c.heads, c.structure_grid)
        else:
            self.structure = nn.ModuleList(nn.Conv2d(9, 3 * d, 1) for d in c.structure_widths)
        dims = c.structure_widths + (c.width,)
        self.narrow = nn.ModuleList(nn.Conv2d(wide, d, 1) for d, wide in zip(dims, dims[1:]))
        self.refine = nn.ModuleList(nn.Conv2d(d, d, 3, padding=1) for d in c.structure_widths)
        outputs = 2 if c.head == 'gain' else 1
        self.head = nn.Sequential(nn.Conv2d(c.structure_widths[0] + 4, 16, 1), nn.GELU(), nn.Conv2d(16, outputs, 1))
        pooled = c.width + 3 * c.structure_widths[-1]
        self.level = nn.Sequential(nn.Linear(pooled, 64), nn.GELU(), nn.Linear(64, 1))  # the picture's own gain or offset
        self.apply(init_weights)
        for last in (self.head[-1], self.level[-1]):  # start from "all fine": residual zero
            nn.init.normal_(last.weight, std=1e-3)
            nn.init.zeros_(last.bias)

    def fields(self, x, return_features=False):
        """The head's maps before the picture is subtracted: (B, 2 or 1, H, W), and the features."""
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[-2:]) < MIN_SIZE:
            raise ValueError(f'P-IEANet takes (B, 3, H, W) with H, W >= {MIN_SIZE}, got {tuple(x.shape)}')
        low, details, sizes = x, [], []
        for _ in range(self.config.levels):
            sizes.append(low.shape[-2:])
            low, *bands = self.split(low)
            details.append(torch.cat(bands, 1))
        features = {}
        if self.config.use_lightness:
            a, features = self.lightness(low / 2 ** self.config.levels, return_features=True)  # ll doubles with each level
        else:
            a = self.lightness(low / 2 ** self.config.levels)
        if self.config.use_structure:
            z, maps = self.structure(details, return_features=True)
            features.update(maps)
        else:
            z = [conv(d).chunk(3, 1) for conv, d in zip(self.structure, details)]
        pooled = torch.cat([to_grid(t, self.config.grid).mean((2, 3)) for t in (a, *z[-1])], 1)
        level = self.level(pooled)[:, :, None, None]
        for i in reversed(range(self.config.levels)):
            a = self.merge(self.narrow[i](a), *z[i], size=sizes[i])
            a = a + F.gelu(self.refine[i](a))
        maps = self.head(torch.cat((a, x, luma(x)), 1))
        # The level is added to the first map: one global and one local field.
        maps = torch.cat((maps[:, :1] + level, maps[:, 1:]), 1)
        return (maps, features) if return_features else maps

    def gain_and_offset(self, x):
        """(g, d) of :func:`apply_gain`, each (B, 1, H, W); only with ``head='gain'``."""
        if self.config.head != 'gain':
            raise ValueError(f"this network's head is {self.config.head!r}: it has no gain")
        maps = self.fields(x)
        return maps[:, :1], maps[:, 1:]

    def forward(self, x, return_features=False):
        maps, features = self.fields(x, return_features=True)
        if self.config.head == 'gain':
            residual = apply_gain(luma(x), maps[:, :1], maps[:, 1:], clamp=not self.training)
        else:
            residual = maps if self.training else maps.clamp(-1, 1)
        return (residual, features) if return_features else residual


def init_weights(m):
    if isinstance(m, (nn.Conv2d, nn.Linear)):
        fan_in = m.weight[0].numel()
        nn.init.trunc_normal_(m.weight, std=fan_in ** -0.5)
        if m.bias is not None:
            nn.init.zeros_(m.bias)
