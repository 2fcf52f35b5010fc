"""ExposureLoss: the frozen network as a training loss for methods that change pictures (paper, section 5.3, Table 4).

    loss = ExposureLoss()                                    # checkpoints/p_ieanet.safetensors
    total = reconstruction + 0.1 * loss(enhanced)            # enhanced: (B, 3, H, W) RGB on [0, 1]

It is mean |residual|, so 0 is ideally exposed everywhere, and 0.1 is off by 26 of 255 grey levels on average.
"""

import copy
import os

import torch
import torch.nn.functional as F
from torch import nn

from models.checkpoint import load_model
from models.grey import luma
from models.p_ieanet import set_ideal

from .predictor import DEFAULT_CHECKPOINT, MIN_SIDE, working_size

REDUCTIONS = ('mean', 'sum', 'none')
TOLERANCE = 1e-3  # a quarter of an 8-bit level outside [0, 1] is rounding, not a mistake


class ExposureLoss(nn.Module):
    """|residual - target| of a picture, judged by frozen weights; the gradient goes to the picture only.

    Args:
        model: a network, (B, 3, H, W) RGB on [0, 1] -> (B, 1, H, W), which is copied; or a file that
            `models.checkpoint.load_model` reads; None: checkpoints/p_ieanet.safetensors. (The authors' network
            only makes sense at squares of 256.)
        reduction: 'mean' (weighted, over all pixels of the batch), 'sum', or 'none': the map (B, 1, h, w).
        target: the residual to aim at, on [-1, 1]: 0 is ideal, 0.05 is 13 levels darker than the network's ideal,
            -0.05 as much brighter. A number, or a tensor that broadcasts to (B, 1, H, W).
        size: pictures whose longer side exceeds it are shrunk to it first (antialiased; sides multiples of 8),
            which is the size that the network was trained at; smaller ones go in as they are. None: never.
        through: 'network' is the true gradient of the loss. 'picture' takes the network's ideal picture,
            grey + residual, for a fixed target and pulls the grey towards it: the same value, a gradient that
            cannot look for pictures that merely please the network, and no backward pass through it.
        check: refuse values outside [0, 1] and NaN. That waits for a GPU once a call, and is left out under
            `torch.compile`.
        ideal: 'auto', 'photograph' or 'fusion', as of `Predictor`; None: as the network was told before.

    forward(picture, weight=None): weight is (B, 1, H, W) or broadcasts to it, >= 0, e.g. 1 on the subject.

    The weights stay frozen and in eval mode whatever `.train()` and `.requires_grad_()` of an enclosing module
    say (inside a compiled call `.requires_grad_()` is not undone), and the arithmetic is in the network's own precision (fp32;
    `.double()` for fp64) inside autocast too: half precision is off by up to 0.02, as much as the residual of a
    well-exposed picture.

    A gradient of the gradient needs `through='picture'`, or PyTorch's `sdpa_kernel(SDPBackend.MATH)` around the call: its
    fast attention has none.

    Raises:
        ValueError: for an argument, a shape, a value of the picture or a weight that is out of range; at least 32
            pixels a side are needed.
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike | None = None,
        reduction: str = 'mean',
        target: float | torch.Tensor = 0.0,
        size: int | None = 256,
        through: str = 'network',
        check: bool = True,
        ideal: str | None = None,
    ):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f'reduction is {reduction!r}, accepted: {", ".join(REDUCTIONS)}')
        if through not in ('network', 'picture'):
            raise ValueError(f"through is {through!r}, accepted: 'network', 'picture'")
        if size is not None and size < MIN_SIDE:
            raise ValueError(f'size is {size}, accepted: None or at least {MIN_SIDE}')
        target = torch.as_tensor(target, dtype=torch.float32)
        if not bool((target.abs() <= 1).all()):
            raise ValueError(f'target holds {_span(target)}, accepted: a residual on [-1, 1]')
        model = copy.deepcopy(model) if isinstance(model, nn.Module) else load_model(model or DEFAULT_CHECKPOINT)
        set_ideal(model, ideal)
        self.network = model.eval()
        self.register_buffer('target', target, persistent=False)
        self.reduction, self.size, self.through, self.check = reduction, size, through, check
        self.requires_grad_(False)

    def train(self, mode: bool = True):
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True):
        for parameter in self.parameters():
            parameter.requires_grad = False
        return self

    def forward(self, picture: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        if picture.dim() != 4 or picture.shape[1] != 3 or min(picture.shape[-2:]) < MIN_SIDE:
            shape = tuple(picture.shape)
            raise ValueError(f'picture is {shape}, accepted: (B, 3, H, W) with H, W >= {MIN_SIDE}')
        if not picture.is_floating_point():
            raise ValueError(f'picture is {picture.dtype}, accepted: floating point on [0, 1]')
        if self.check and not torch.compiler.is_compiling():
            _check_range('picture', picture, 1)
            if weight is not None:
                _check_range('weight', weight, float('inf'))
        if not torch.compiler.is_compiling():
            self.requires_grad_(False)  # that of an enclosing module sets the parameters themselves, past ours
        dtype = next((p.dtype for p in self.parameters()), torch.float32)
        with torch.autocast(picture.device.type, enabled=False):
            x, target = picture.to(dtype), self.target.to(dtype)
            height, width = full = x.shape[-2:]
            if self.size is not None and max(full) > self.size:
                height, width = working_size(height, width, self.size)
                x = _shrink(x, (height, width))
            if self.through == 'picture':
                with torch.no_grad():
                    ideal = luma(x) + self.network(x)
                residual = ideal - luma(x)
            else:
                residual = self.network(x)
            if target.dim():
                target = _fit('target', target, (len(x), 1, *full), (height, width))
            distance = (residual - target).abs()
            if weight is not None:
                weight = _fit('weight', weight.detach().to(dtype), (len(x), 1, *full), (height, width))
                distance = distance * weight
            if self.reduction == 'none':
                return distance
            if self.reduction == 'sum':
                return distance.sum()
            if weight is None:
                return distance.mean()
            return distance.sum() / weight.sum().clamp_min(1e-12)

    def extra_repr(self):
        return f'reduction={self.reduction!r}, size={self.size}, through={self.through!r}, check={self.check}'


def _span(values: torch.Tensor) -> str:
    low, high = values.detach().aminmax()
    return f'min={low.item():.4g}, max={high.item():.4g}'


def _check_range(name: str, values: torch.Tensor, high: float) -> None:
    lowest, highest = values.detach().float().aminmax()  # both are NaN where there is one
    if not bool((lowest >= -TOLERANCE) & (highest <= high + TOLERANCE)):
        accepted = '[0, 1], e.g. after clamp or sigmoid' if high == 1 else '>= 0'
        raise ValueError(f'{name} holds {_span(values)}, accepted: {accepted}')


def _shrink(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False, antialias=True)


def _fit(name: str, values: torch.Tensor, full: tuple, size: tuple[int, int]) -> torch.Tensor:
    """A map that broadcasts to `full`, (B, 1, H, W), brought to the working size and expanded."""
    try:
        values = values.expand(full)
    except RuntimeError as error:
        raise ValueError(f'{name} is {tuple(values.shape)}, accepted: what broadcasts to {tuple(full)}') from error
    return values if tuple(full[-2:]) == tuple(size) else _shrink(values, size)
