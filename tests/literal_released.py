"""The released network written down as literally as possible: slow, and only for tests and timings.

Every operation stands where the release has it: nine directions one after the other, `nn.Transformer` with
its first axis as the sequence (so that its attention runs over the *batch*), and each picture fed as a pair
with itself, as the release's heat-map script does. `ReleasedWaveletNet` must give the same numbers.
"""
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

OFFSETS = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, -1), (-1, 1), (1, 1)]


class Wrapped(nn.Module):
    """A module under the name `conv`, as the release has many."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x)


class ChannelAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.ca = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Conv2d(8, channels, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.ca(F.adaptive_avg_pool2d(x, 1))


class PixelAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.pa = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.pa(x)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.calayer = ChannelAttention(channels)
        self.palayer = PixelAttention(channels)

    def forward(self, x):
        y = F.relu(self.conv1(x)) + x
        return self.palayer(self.calayer(self.conv2(y))) + x


class Group(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gp = nn.Sequential(Block(channels), Block(channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x):
        return self.gp(x) + x


class FFA(nn.Module):
    def __init__(self):
        super().__init__()
        self.g1, self.g2, self.g3 = Group(64), Group(64), Group(64)
        self.ca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(192, 4, 1), nn.ReLU(),
                                nn.Conv2d(4, 192, 1), nn.Sigmoid())
        self.palayer = PixelAttention(64)
        self.pre = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1))
        self.post = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 1, 3, padding=1))
        self.post_2 = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1))

    def forward(self, rgb):
        first = self.g1(self.pre(rgb))
        second = self.g2(first)
        third = self.g3(second)
        w = self.ca(torch.cat([first, second, third], dim=1)).view(-1, 3, 64)[:, :, :, None, None]
        mixed = w[:, 0] * first + w[:, 1] * second + w[:, 2] * third
        return self.post_2(self.post(self.palayer(mixed)) + rgb)


class LongRange(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():     # about nested tensors, which sequence-first inputs rule out
            warnings.simplefilter('ignore')
            self.transformer = nn.Transformer(d_model=9, nhead=1, num_encoder_layers=1, num_decoder_layers=1,
                                              dim_feedforward=16)
        self.conv = nn.Conv2d(9, 3, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = x.contiguous().view(b, h * w, c)
        return self.conv(self.transformer(tokens, tokens).view(b, c, h, w))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        for i in range(9):
            setattr(self, f'conv{i}', Wrapped(nn.Conv2d(9, 3, 2)))
            setattr(self, f'transformer{i}', LongRange())
            setattr(self, f'fusion{i}', Wrapped(nn.Conv2d(6, 3, 2)))

    def unit(self, i, x):
        short = getattr(self, f'conv{i}')(F.pad(x, (1, 0, 1, 0)))
        long = getattr(self, f'transformer{i}')(x)
        return getattr(self, f'fusion{i}')(F.pad(torch.cat([short, long], dim=1), (1, 0, 1, 0)))

    def forward(self, bands):
        h, w = bands.shape[-2:]
        total = self.unit(0, bands)
        for i, (dy, dx) in enumerate(OFFSETS, start=1):
            neighbour = bands[:, :, 1 + dy:h - 1 + dy, 1 + dx:w - 1 + dx]
            total = total + self.unit(i, F.interpolate(bands[:, :, 1:-1, 1:-1] - neighbour, size=(h, w)))
        return total


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.blur_conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(),
                                       nn.Conv2d(3, 1, 3, padding=1))
        self.tail_conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(),
                                       nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(),
                                       nn.Conv2d(6, 1, 3, padding=1), nn.ReLU())

    def forward(self, structure, size):
        return self.tail_conv(F.interpolate(structure, size=size, mode='bilinear', align_corners=False))


class LiteralReleasedNet(nn.Module):
    """The released graph: `forward` mixes its batch, `per_picture` is the heat-map script's way."""

    def __init__(self):
        super().__init__()
        self.ffa_group = FFA()
        self.encoder = Encoder()
        self.Low = Wrapped(nn.Conv2d(3, 3, 2, stride=2))
        self.High_1 = Wrapped(nn.Conv2d(3, 3, 2, stride=2))
        self.High_2 = Wrapped(nn.Conv2d(3, 3, 2, stride=2))
        self.High_3 = Wrapped(nn.Conv2d(3, 3, 2, stride=2))
        self.fusion = Head()

    def forward(self, rgb):
        self.Low(rgb)   # computed and thrown away, as released
        bands = torch.cat([self.High_1(rgb), self.High_2(rgb), self.High_3(rgb)], dim=1)
        lightness = self.ffa_group(rgb)
        # The release says 256x256 here; any other size is our extension: the picture's own.
        return self.fusion(self.encoder(bands), rgb.shape[-2:]) + lightness

    def per_picture(self, rgb):
        """(B,3,H,W) -> (B,1,H,W), one picture at a time, paired with itself."""
        return torch.cat([self(torch.cat([picture, picture]))[:1] for picture in rgb.split(1)])
