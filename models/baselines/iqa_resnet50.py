"""The backbone of most quality assessors, ResNet-50 (He et al., CVPR 2016), from random weights, with a dense head.

The head sums the four stages at a quarter of the picture's size, as a feature pyramid (Lin et al., CVPR 2017) does. Batch normalisation is
replaced by group normalisation (Wu and He, ECCV 2018): a picture's map must not depend on its batch.
"""
import torch.nn as nn
import torch.nn.functional as F
from torchvision.models import resnet50

from .common import Settings, check_input, start_from_zero

STAGES = {'layer1': 256, 'layer2': 512, 'layer3': 1024, 'layer4': 2048}


class IQAResNet50(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    Args:
        width: channels of the head.
    """

    def __init__(self, width=64):
        super().__init__()
        self.config = Settings(width=width)
        net = resnet50(weights=None, norm_layer=lambda c: nn.GroupNorm(32, c), zero_init_residual=True)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList(getattr(net, name) for name in STAGES)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in STAGES.values())
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), start_from_zero(nn.Conv2d(width, 1, 3, padding=1)))

    def forward(self, x):
        check_input(x)
        f, total = self.stem(x), 0
        for stage, lateral in zip(self.stages, self.lateral):
            f = stage(f)
            y = lateral(f)
            size = y.shape[-2:] if stage is self.stages[0] else total.shape[-2:]
            total = total + F.interpolate(y, size=size, mode='bilinear', align_corners=False)
        return F.interpolate(self.head(total), size=x.shape[-2:], mode='bilinear', align_corners=False)
