"""P-IEANet: pixel-level image exposure assessment, "Rethinking No-reference Image Exposure Assessment from Holism to Pixel"
(NeurIPS 2024), Fig. 4.

    picture -> Haar DWT -> ll -> LightnessFeatureModule  -> A_o \
                        -> lh, hl, hh -> StructureFeatureModule -> Z_o -> inverse DWT -> MLP -> exposure residual

residual = (ideal grey - this grey) / 255 on [-1, 1]: + underexposed, 0 ideal, - overexposed.

Where the paper is silent we measured (benchmarks/results/runs.csv). The features of the approximation band come from a U of gated blocks,
the structure branch sees its features normalised, and the last MLP multiplies: the residual's fine detail is the picture's own, times
what the light asks for. Two things can be added: features of ImageNet (semantics.py), and tone curves as a second opinion (tone_curve.py).
"""
from dataclasses import asdict, dataclass, fields
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F

from .gated import gate
from .grey import LUMA, luma  # noqa: F401  LUMA is found here too
from .haar import even, haar_dwt2d, haar_idwt2d
from .lightness import LightnessFeatureModule
from .pointwise import Pointwise
from .semantics import CHANNELS, Semantics
from .structure import StructureFeatureModule
from .tone_curve import ToneCurves
from .wavelet import WAVELETS, dwt2d, idwt2d

MIN_SIZE = 32
IDEALS = {'auto': None, 'photograph': 0, 'fusion': 1}  # kinds of tone curves, as --kinds of train_wavelet.py numbers them


@dataclass(frozen=True)
class PIEANetConfig:
    """Everything that defines a P-IEANet; it travels inside the checkpoint."""
    levels: int = 1                    # how often the DWT is applied; 1 is the paper's figure
    width: int = 24                    # channels of the lightness branch
    down: tuple = (1, 1, 2)            # gated blocks in the lightness branch's U, finest first
    middle: int = 2                    # and at its bottom
    structure_widths: tuple = (8,)     # channels of z_1 .. z_levels, finest first
    token_width: int = 32              # channels of the structure branch's tokens
    heads: int = 4
    grid: int = 16                     # the fixed grid of everything global, tokens per side
    structure_grid: int = 8            # the same for the structure branch's long-range encoders
    kernels: tuple = (3, 7, 11)        # K of Eq. 6
    wavelet: str = 'haar'              # or 'db4', 'sym4'
    semantics: bool = False            # ours: what kind of picture it is, by features of ImageNet, joins the lightness branch
    curve: float = 0.0                 # ours: the say, 0 to 1, of tone curves from statistics beside the network; 0: none
    kinds: int = 1                     # of pictures, each with a tone curve of its own
    use_dwt: bool = True               # False: pixel-unshuffle instead of the wavelet (paper's Table 3)
    use_structure: bool = True         # False: a 1x1 embedding instead of the branch
    use_lightness: bool = True         # False: a 1x1 embedding instead of the branch

    def __post_init__(self):
        for name in ('structure_widths', 'kernels', 'down'):
            value = getattr(self, name)  # JSON gives lists, a command line one number
            object.__setattr__(self, name, (value,) if isinstance(value, int) else tuple(value))
        for name in ('width', 'middle', 'token_width', 'heads', 'grid', 'structure_grid'):
            if getattr(self, name) < (least := 0 if name == 'middle' else 1):
                raise ValueError(f'{name} is {getattr(self, name)}, accepted: {least} or more')
        if self.levels < 1 or 2 ** self.levels > MIN_SIZE // 2:
            raise ValueError(f'levels is {self.levels}, accepted: 1 to 4')
        if len(self.structure_widths) != self.levels:
            raise ValueError(f'structure_widths has {len(self.structure_widths)} entries for {self.levels} levels')
        if self.wavelet not in WAVELETS:
            raise ValueError(f'wavelet is {self.wavelet!r}, accepted: {", ".join(WAVELETS)}')
        if not self.down or min(self.down) < 0:
            raise ValueError(f'down is {self.down}, accepted: at least one number, none below 0')
        if self.semantics and not self.use_lightness:
            raise ValueError('semantics join the lightness branch, which is left out')
        if not 0 <= self.curve < 1:
            raise ValueError(f'curve is {self.curve}, accepted: 0 up to, but not including, 1')
        if self.kinds < 1:
            raise ValueError(f'kinds is {self.kinds}, accepted: 1 or more')
        if self.semantics and self.curve and self.grid < 2:
            raise ValueError(f'grid is {self.grid}, accepted: from 2 on, where a curve reads the deviations of semantics')
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


def set_ideal(network, ideal):
    """Say what is ideal, which a picture does not tell for sure: mostly a bracket's fusion is brighter than a photograph.

    Args:
        network: the network itself, not a wrapper; changed in place. What it was told is not saved with its weights; an export keeps it.
        ideal: 'photograph', as a photographer exposes; 'fusion', as a bracket's frames are merged, and as panoramas are shown; 'auto': the
            network guesses which. None: as it was told before.

    Raises:
        ValueError: another name, or a network without tone curves of kinds.
    """
    if ideal is None:
        return
    if ideal not in tuple(IDEALS):
        raise ValueError(f'ideal is {ideal!r}, accepted: {", ".join(IDEALS)}')
    curves = getattr(network, 'curve', None)
    known = isinstance(curves, ToneCurves)  # networks of others may have a curve of theirs
    if ideal != 'auto' and not (known and curves.router):
        raise ValueError(f'ideal is {ideal!r}, but these weights have no curves of kinds (train_wavelet.py --tone-curve F --kinds 0 1)')
    if known:
        curves.told = IDEALS[ideal]


def named(weights, ideal):
    """The name of weights in a report, with what they were told."""
    return weights if ideal == 'auto' else f'{weights}, ideal: {ideal}'


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


class Gate(nn.Module):
    """:func:`models.gated.gate` as a module."""

    def forward(self, x):
        return gate(x)


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
        if c.use_lightness:
            self.lightness = LightnessFeatureModule(3, c.width, c.down, c.middle, c.heads, c.grid, c.kernels, CHANNELS * c.semantics)
        else:
            self.lightness = Pointwise(3, c.width)
        self.semantics = Semantics() if c.semantics else None
        if c.use_structure:
            self.structure = StructureFeatureModule(9, c.structure_widths, c.token_width, c.heads, c.structure_grid)
        else:
            self.structure = nn.ModuleList(Pointwise(9, 3 * d) for d in c.structure_widths)
        dims = c.structure_widths + (c.width,)
        self.narrow = nn.ModuleList(Pointwise(wide, d) for d, wide in zip(dims, dims[1:]))
        self.head = nn.Sequential(Pointwise(dims[0] + 4, 32), Gate(), Pointwise(16, 1))
        self.skip = Pointwise(dims[0], 1, bias=False)
        self.curve = ToneCurves(c.kinds, context=CHANNELS * c.semantics) if c.curve else None
        self.apply(init_weights)
        if c.curve:
            self.curve.start()
        if c.semantics:
            self.lightness.context.start()
        for last in (self.head[-1], self.skip):  # start from "all fine"
            nn.init.normal_(last.weight, std=1e-3)

    def forward(self, x, return_features=False):
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[-2:]) < MIN_SIZE:
            raise ValueError(f'P-IEANet takes (B, 3, H, W) with H, W >= {MIN_SIZE}, got {tuple(x.shape)}')
        c = self.config
        low, details, sizes = x, [], []
        for _ in range(c.levels):
            sizes.append(low.shape[-2:])
            low, *bands = self.split(low)
            details.append(torch.cat(bands, 1))
        if c.use_dwt:
            low = low / 2 ** c.levels  # ll doubles with each level; a sampled pixel does not
        features = {}
        context = self.semantics(x, c.grid) if c.semantics else None
        if c.use_lightness:
            a, features = self.lightness(low, context, return_features=True)
        else:
            a = self.lightness(low)
        if c.use_structure:
            z, maps = self.structure(details, return_features=True)
            features.update(maps)
        else:
            z = [conv(d).chunk(3, 1) for conv, d in zip(self.structure, details)]
        for i in reversed(range(c.levels)):
            a = self.merge(self.narrow[i](a), *z[i], size=sizes[i])
        if x.stride(1) == 1:  # channels_last; a mixture of layouts would be put in order by each layer anew
            a = a.contiguous(memory_format=torch.channels_last)
        residual = self.skip(a) + self.head(torch.cat((a, x, luma(x)), 1))
        if c.curve:
            residual = (1 - c.curve) * residual + c.curve * self.curve(x, context)
        if not self.training:  # a clamped pixel would have no gradient
            residual = residual.clamp(-1, 1)
        return (residual, features) if return_features else residual


def init_weights(m):
    if isinstance(m, (nn.Conv2d, nn.Linear)):
        fan_in = m.weight[0].numel()
        nn.init.trunc_normal_(m.weight, std=fan_in ** -0.5)
        if m.bias is not None:
            nn.init.zeros_(m.bias)
