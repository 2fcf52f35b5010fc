"""P-IEANet: pixel-level image exposure assessment, "Rethinking No-reference Image Exposure Assessment from Holism to Pixel"
(NeurIPS 2024), Fig. 4.

    picture -> Haar DWT -> ll -> LightnessFeatureModule  -> A_o \
                        -> lh, hl, hh -> StructureFeatureModule -> Z_o -> inverse DWT -> MLP -> exposure residual

residual = (ideal grey - this grey) / 255 on [-1, 1]: + underexposed, 0 ideal, - overexposed.

Where the paper is silent we measured. Three choices differ from a bare reading of it: the transform is repeated on the approximation
band (``levels``), so the lightness branch works where the picture is small; the head predicts the gain that
would make the picture ideal and subtracts the picture itself (``head='gain'``), because the residual's fine detail is the picture's own;
and the picture's own gain starts from auto-exposure (``anchor``), so the network only learns where a scene's ideal differs from mid-grey.
"""
from dataclasses import asdict, dataclass, fields
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F

from .grid import to_grid
from .haar import even, haar_dwt2d, haar_idwt2d
from .lightness import LightnessFeatureModule
from .structure import StructureFeatureModule
from .wavelet import WAVELETS, dwt2d, idwt2d

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, PIL's mode 'L'
MIN_SIZE = 32
KEY = 0.45  # mean grey that auto-exposure aims at: the mean over well-exposed photographs


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
    anchor: bool = True                # start from auto-exposure, and show the lightness branch the picture brought there
    tones: int = 16                    # thresholds of the grey histogram that the picture's level sees; 0: none
    dropout: float = 0.2               # of what the picture's level is told from, in training: few scenes, many details to learn by heart
    wavelet: str = 'haar'              # or 'db4', 'sym4'
    use_dwt: bool = True               # False: pixel-unshuffle instead of the wavelet (paper's Table 3)
    use_structure: bool = True         # False: a 1x1 embedding instead of the branch
    use_lightness: bool = True         # False: a 1x1 embedding instead of the branch

    def __post_init__(self):
        for name in ('structure_widths', 'kernels'):
            value = getattr(self, name)  # JSON gives lists, a command line one number
            object.__setattr__(self, name, (value,) if isinstance(value, int) else tuple(value))
        for name in ('width', 'depth', 'context', 'token_width', 'heads', 'grid', 'structure_grid'):
            if getattr(self, name) < (least := 0 if name in ('depth', 'context') else 1):
                raise ValueError(f'{name} is {getattr(self, name)}, accepted: {least} or more')
        if self.levels < 1 or 2 ** self.levels > MIN_SIZE // 2:
            raise ValueError(f'levels is {self.levels}, accepted: 1 to 4')
        if len(self.structure_widths) != self.levels:
            raise ValueError(f'structure_widths has {len(self.structure_widths)} entries for {self.levels} levels')
        if self.head not in ('gain', 'residual'):
            raise ValueError(f"head is {self.head!r}, accepted: 'gain', 'residual'")
        if self.wavelet not in WAVELETS:
            raise ValueError(f'wavelet is {self.wavelet!r}, accepted: {", ".join(WAVELETS)}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout is {self.dropout}, accepted: 0 to below 1')
        if self.tones < 0:
            raise ValueError(f'tones is {self.tones}, accepted: 0 or more')
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


def auto_exposure_gain(grey, grid):
    """Display-light gain (log2) that brings the mean of min(1, grey * gain) near :data:`KEY`.

    Args:
        grey: (B, 1, H, W) on [0, 1]. It is taken on a fixed grid, so the answer hardly depends on resolution.

    Returns:
        (B, 1, 1, 1) on [-2, 4]; three steps of a fixed-point iteration, near enough for a starting point.
    """
    grey = to_grid(grey, grid)
    g = torch.zeros_like(grey[:, :, :1, :1])
    for _ in range(3):
        mean = (grey * torch.exp2(g)).clamp_max(1).mean((2, 3), keepdim=True)
        g = (g + torch.log2(KEY / mean.clamp_min(1e-3))).clamp(-2, 4)
    return g


def tone_shares(grey, n):
    """Share of the area darker than each of ``n`` thresholds, softly: (B, 1, H, W) -> (B, n). Says how much is clipped or crushed."""
    thresholds = torch.linspace(0.01, 0.99, n, device=grey.device, dtype=grey.dtype)
    return torch.stack([torch.sigmoid((t - grey) * 128).mean((1, 2, 3)) for t in thresholds.unbind()], 1)


def polyphase(x):
    """What stands in for the DWT when it is switched off: the four pixels of a block, unmixed (pixel-unshuffle)."""
    x = even(x)
    return x[..., 0::2, 0::2], x[..., 0::2, 1::2], x[..., 1::2, 0::2], x[..., 1::2, 1::2]


def inverse_polyphase(a, b, c, d, size):
    y = F.pixel_shuffle(torch.stack((a, b, c, d), 2).flatten(1, 2), 2)
    return y[..., :size[0], :size[1]]


def transform(config):
    """``(split, merge)``: a picture to its four bands and back."""
    if not config.use_dwt:
        return polyphase, inverse_polyphase
    if config.wavelet == 'haar':
        return haar_dwt2d, haar_idwt2d
    return partial(dwt2d, wavelet=config.wavelet), partial(idwt2d, wavelet=config.wavelet)


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
        self.split, self.merge = transform(c)
        seen = 6 if c.anchor else 3
        if c.use_lightness:
            self.lightness = LightnessFeatureModule(seen, c.width, c.depth, c.context, c.heads, c.grid, c.kernels)
        else:
            self.lightness = nn.Conv2d(seen, c.width, 1)
        if c.use_structure:
            self.structure = StructureFeatureModule(9, c.structure_widths, c.token_width, c.heads, c.structure_grid)
        else:
            self.structure = nn.ModuleList(nn.Conv2d(9, 3 * d, 1) for d in c.structure_widths)
        dims = c.structure_widths + (c.width,)
        self.narrow = nn.ModuleList(nn.Conv2d(wide, d, 1) for d, wide in zip(dims, dims[1:]))
        self.refine = nn.ModuleList(nn.Conv2d(d, d, 3, padding=1) for d in c.structure_widths)
        outputs = 2 if c.head == 'gain' else 1
        self.head = nn.Sequential(nn.Conv2d(c.structure_widths[0] + 4, 16, 1), nn.GELU(), nn.Conv2d(16, outputs, 1))
        pooled = c.width + 3 * c.structure_widths[-1] + c.tones + c.anchor
        self.level = nn.Sequential(nn.Linear(pooled, 128), nn.GELU(), nn.Linear(128, 1))  # the picture's own gain or offset
        self.apply(init_weights)
        for last in (self.head[-1], self.level[-1]):  # start from auto-exposure, or else from "all fine"
            nn.init.normal_(last.weight, std=1e-3)
            nn.init.zeros_(last.bias)

    def fields(self, x, return_features=False):
        """The head's maps before the picture is subtracted: (B, 2 or 1, H, W), and the features."""
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[-2:]) < MIN_SIZE:
            raise ValueError(f'P-IEANet takes (B, 3, H, W) with H, W >= {MIN_SIZE}, got {tuple(x.shape)}')
        c, grey = self.config, luma(x)
        low, details, sizes = x, [], []
        for _ in range(c.levels):
            sizes.append(low.shape[-2:])
            low, *bands = self.split(low)
            details.append(torch.cat(bands, 1))
        if c.use_dwt:
            low = low / 2 ** c.levels  # ll doubles with each level; a sampled pixel does not
        picture = [tone_shares(grey, c.tones)] if c.tones else []
        if c.anchor:
            anchor = auto_exposure_gain(grey, c.grid)
            low = torch.cat((low, (low * torch.exp2(anchor)).clamp_max(2)), 1)
            picture.append(anchor.flatten(1))
        features = {}
        if c.use_lightness:
            a, features = self.lightness(low, return_features=True)
        else:
            a = self.lightness(low)
        if c.use_structure:
            z, maps = self.structure(details, return_features=True)
            features.update(maps)
        else:
            z = [conv(d).chunk(3, 1) for conv, d in zip(self.structure, details)]
        pooled = torch.cat([to_grid(t, c.grid).mean((2, 3)) for t in (a, *z[-1])] + picture, 1)
        level = self.level(F.dropout(pooled, c.dropout, self.training))[:, :, None, None]
        if c.anchor:  # in grey where the head predicts no gain
            level = level + (anchor if c.head == 'gain' else KEY - to_grid(grey, c.grid).mean((2, 3), keepdim=True))
        for i in reversed(range(c.levels)):
            a = self.merge(self.narrow[i](a), *z[i], size=sizes[i])
            a = a + F.gelu(self.refine[i](a))
        maps = self.head(torch.cat((a, x, grey), 1))
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
