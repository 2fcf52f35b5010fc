"""U-Net (Ronneberger et al., MICCAI 2015) of segmentation_models_pytorch with a timm encoder, from random weights.

Both packages are extras: ``pip install segmentation-models-pytorch`` (requirements-dev.txt has it).
"""
import torch.nn as nn

from .common import Settings, check_input, pad_to_multiple, start_from_zero


class UNet(nn.Module):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W).

    Batch normalisation is the library's: in eval mode it uses running means, so a map does not depend on its batch.

    Args:
        encoder: any convolutional network of timm.
        depth: halvings, 3 to 5.

    Raises:
        ValueError: when segmentation_models_pytorch is not installed.
    """

    def __init__(self, encoder='resnet18', depth=4):
        super().__init__()
        try:
            from segmentation_models_pytorch import Unet
        except ImportError as e:
            raise ValueError(f'--model unet needs segmentation_models_pytorch: pip install segmentation-models-pytorch ({e})') from e
        self.config = Settings(encoder=encoder, depth=depth)
        channels = [16 * 2 ** i for i in reversed(range(depth))]
        self.net = Unet(f'tu-{encoder}', encoder_depth=depth, encoder_weights=None, decoder_channels=channels, classes=1)
        start_from_zero(self.net.segmentation_head[0])

    def forward(self, x):
        check_input(x)
        h, w = x.shape[-2:]
        return self.net(pad_to_multiple(x, 2 ** self.config['depth']))[..., :h, :w]
