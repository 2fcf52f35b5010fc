"""The network whose weights the P-IEANet authors published. It is not the paper's (that is p_ieanet.py).

    from models.released import load_released
    net = load_released('wavelet_epoch_2_val_loss0.03022034629540784.pth')
    residual = net(rgb)                       # (B,3,H,W) RGB on [0,1] -> (B,1,H,W)

An FFA-Net at full size (`ffa_group`, 99 % of the arithmetic) plus a small structure branch on learned
"Haar" bands. The maps are those of the release's heat-map script, which feeds each picture paired with
itself: its transformers' attention runs over the batch, so there it sees two equal tokens and returns their
value projection. Hence nothing here depends on the batch, and no pairing is needed. What makes it fast:

- no pairing, and nothing that the release computes and throws away (`Low`, `fusion.blur_conv`);
- the nine structure units run at once: attention is one 9x9 affine map a unit, the LayerNorms' centring and
  gains go into the matrices beside them, and the sum of nine 2x2 convolutions is one convolution;
- on the CPU without gradients, the lightness branch runs one picture at a time, channels_last, in strips of
  rows that fit the cache, on memory taken once; its last two convolutions, with nothing between, are one.

Parameters have the release's names. There is no dropout: training and inference are the same function.
"""
import dataclasses
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from .checkpoint import CheckpointError, load_weights
from .grey import wide

MIN_SIZE = 6    # half-size bands need an interior to take neighbour differences of: 3x3 pixels at least
UNUSED = ('Low.', 'fusion.blur_conv.')      # in the authors' files, never part of the output
OFFSETS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, -1), (-1, 1), (1, 1))    # (dy, dx) of units 1..8
WIDTH = 9       # three detail bands of three channels; also the transformers' token width
STRIP_BYTES = 8 << 20   # of one 64-channel map: a strip and what it is made from stay in the cache
TOKENS = 4096           # of each structure unit at a time, for the same reason


@dataclasses.dataclass(frozen=True)
class ReleasedConfig:
    """The released graph has no choices; this is what a checkpoint of fine-tuned weights stores."""

    def to_dict(self):
        return {}


def conv2d(x, layers, **options):
    """One convolution whose outputs are those of ``layers``, one after the other."""
    weight, bias = (torch.cat([wide(getattr(layer, k)) for layer in layers]) for k in ('weight', 'bias'))
    return F.conv2d(x, weight, bias, **options)


def conv3x3(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def gate(inputs, hidden, outputs):
    """Attention weights on (0, 1) from 1x1 convolutions."""
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.ReLU(inplace=True),
                         nn.Conv2d(hidden, outputs, 1), nn.Sigmoid())


class RowMap:
    """A (1,C,H,W) map between two rows of zeros, read and written in strips of rows (slices, by iterating).

    A 64-channel map of 256x256 is 17 MB in float32. Fresh memory of that size comes from the system page by
    page, which for a new map per layer takes half as long as the convolutions do. So six maps serve all
    layers and all pictures of a batch.
    """

    def __init__(self, memory):
        self.memory = memory                    # (1,C,H+2,W)
        self.height, width = memory.shape[2] - 2, memory.shape[3]
        self.rows = max(1, STRIP_BYTES // (64 * width * memory.element_size()))

    @classmethod
    def several(cls, count, height, width, dtype):
        bytes_each = torch.empty(0, dtype=dtype).element_size()
        # From numpy, because it asks the system for huge pages and torch does not.
        memory = torch.from_numpy(np.empty(count * (height + 2) * width * 64 * bytes_each, np.uint8))
        memory = memory.view(dtype).view(count, 1, height + 2, width, 64).permute(0, 1, 4, 2, 3)
        memory[:, :, :, [0, -1]] = 0
        return [cls(m) for m in memory]

    def __iter__(self):
        for top in range(0, self.height, self.rows):
            yield slice(top, min(top + self.rows, self.height))

    def __getitem__(self, rows):
        return self.memory[:, :, rows.start + 1:rows.stop + 1]

    def __setitem__(self, rows, value):
        self[rows].copy_(value)

    def conv(self, layer, rows):
        """These rows of a 3x3 convolution of the map."""
        return F.conv2d(self.memory[:, :, rows.start:rows.stop + 2], layer.weight, layer.bias, padding=(0, 1))

    def mean(self):
        total = sum(wide(self[s].mean((2, 3), keepdim=True)) * (s.stop - s.start) for s in self)
        return (total / self.height).to(self.memory.dtype)


class Block(nn.Module):
    """Conv, ReLU, + input, conv, channel attention, pixel attention, + input."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv3x3(64, 64), conv3x3(64, 64)
        self.calayer = nn.ModuleDict({'ca': gate(64, 8, 64)})
        self.palayer = nn.ModuleDict({'pa': gate(64, 8, 1)})

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x), inplace=True) + x)
        y = y * self.calayer['ca'](y.mean((2, 3), keepdim=True))
        return torch.addcmul(x, y, self.palayer['pa'](y))

    def strips(self, x, y, z, out):
        """The same on four RowMaps, y and z for scratch; ``out`` may be ``x`` or ``z``."""
        for s in x:
            torch.add(x.conv(self.conv1, s).relu_(), x[s], out=y[s])
        for s in x:
            z[s] = y.conv(self.conv2, s)
        channels = self.calayer['ca'](z.mean())
        for s in x:
            scaled = z[s].mul_(channels)
            torch.addcmul(x[s], scaled, self.palayer['pa'](scaled), out=out[s])


class Group(nn.Module):
    """Two blocks and a convolution, + input."""

    def __init__(self):
        super().__init__()
        self.gp = nn.Sequential(Block(), Block(), conv3x3(64, 64))

    def forward(self, x):
        return self.gp(x) + x

    def strips(self, x, out, a, b, c):
        """The same on RowMaps, the last three for scratch."""
        self.gp[0].strips(x, a, b, c)
        self.gp[1].strips(c, a, b, c)
        for s in x:
            torch.add(c.conv(self.gp[2], s), x[s], out=out[s])


class LightnessBranch(nn.Module):
    """(B,3,H,W) -> (B,1,H,W): three groups in a chain, mixed by channel weights, then pixel attention."""

    def __init__(self):
        super().__init__()
        self.g1, self.g2, self.g3 = Group(), Group(), Group()
        self.ca = nn.Sequential(nn.AdaptiveAvgPool2d(1), *gate(192, 4, 192))
        self.palayer = nn.ModuleDict({'pa': gate(64, 8, 1)})
        self.pre = nn.Sequential(conv3x3(3, 64))
        self.post = nn.Sequential(conv3x3(64, 64), conv3x3(64, 1))
        self.post_2 = nn.Sequential(conv3x3(3, 1))

    def forward(self, rgb):
        x = rgb.to(self.pre[0].weight.dtype).contiguous(memory_format=torch.channels_last)
        if x.device.type == 'cpu' and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            lightness = self.strips(x)
        else:
            first = self.g1(self.pre(x))
            second = self.g2(first)
            third = self.g3(second)
            means = torch.cat([group.mean((2, 3), keepdim=True) for group in (first, second, third)], dim=1)
            a, b, c = self.ca(means).chunk(3, dim=1)
            mixed = torch.addcmul(torch.addcmul(a * first, b, second), c, third)
            lightness = self.post(mixed * self.palayer['pa'](mixed))
        with torch.autocast(x.device.type, enabled=False):
            return conv2d(wide(lightness) + rgb, self.post_2, padding=1)

    def strips(self, x):
        """``forward`` up to ``post`` without gradients, picture by picture on RowMaps."""
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else x.dtype
        first, second, third, *scratch = RowMap.several(6, *x.shape[2:], dtype)
        weight, bias = self.folded_post()
        result = []
        for picture in x.split(1):
            picture, start = RowMap(F.pad(picture, (0, 0, 1, 1))), third    # third is written last
            for s in start:
                start[s] = picture.conv(self.pre[0], s)
            self.g1.strips(start, first, *scratch)
            self.g2.strips(first, second, *scratch)
            self.g3.strips(second, third, *scratch)
            means = torch.cat([first.mean(), second.mean(), third.mean()], dim=1)
            a, b, c = self.ca(means).chunk(3, dim=1)
            mixed, taps = scratch[0], []
            for s in mixed:
                torch.mul(first[s], a, out=mixed[s]).addcmul_(second[s], b).addcmul_(third[s], c)
                mixed[s].mul_(self.palayer['pa'](mixed[s]))
                taps.append(F.conv2d(mixed[s], weight.to(dtype)))
            mixed = mixed.memory[:, :, 1:-1]
            value = F.fold(wide(torch.cat(taps, dim=2)).flatten(2), mixed.shape[2:], 5, padding=2) + bias
            # Both convolutions pad with zeros, one 5x5 only pads once: the outermost pixels differ.
            value[:, :, :1] = self.post(mixed[:, :, :3])[:, :, :1]
            value[:, :, -1:] = self.post(mixed[:, :, -3:])[:, :, -1:]
            value[:, :, :, :1] = self.post(mixed[:, :, :, :3])[:, :, :, :1]
            value[:, :, :, -1:] = self.post(mixed[:, :, :, -3:])[:, :, :, -1:]
            result.append(value)
        return torch.cat(result)

    def folded_post(self):
        """`post` as one 5x5 convolution, 64 channels to one: weights (25,64,1,1) for F.fold, and the bias."""
        first, last = (wide(conv.weight) for conv in self.post)
        # conv2d correlates, so correlating the first kernel with the flipped last one composes the two.
        weight = F.conv2d(first.transpose(0, 1), last.flip(2, 3), padding=2)      # (64,1,5,5)
        bias = last.sum((2, 3)) @ wide(self.post[0].bias) + wide(self.post[1].bias)
        return weight.flip(2, 3).reshape(64, 25).t()[:, :, None, None], bias


def transformer():
    """The parameters of nn.Transformer(9, nhead=1, 1 encoder layer, 1 decoder layer, 16), by its names."""
    def stack(layer):
        return nn.ModuleDict({'layers': nn.ModuleList([layer]), 'norm': nn.LayerNorm(WIDTH)})
    return nn.ModuleDict({'encoder': stack(nn.TransformerEncoderLayer(WIDTH, 1, 16)),
                          'decoder': stack(nn.TransformerDecoderLayer(WIDTH, 1, 16))})


def stacked(layers):
    """Nine linear layers' weights (9,out,in), biases (9,out,1); or nine norms' gains and shifts (9,n,1)."""
    weight, bias = (torch.stack([wide(getattr(layer, k)) for layer in layers]) for k in ('weight', 'bias'))
    return (weight if weight.dim() == 3 else weight[..., None]), bias[..., None]


def attention(layers):
    """Attention among equal tokens as the affine map (9,9,9), (9,9,1): value, then output projection."""
    value = torch.stack([wide(layer.in_proj_weight[2 * WIDTH:]) for layer in layers])
    bias = torch.stack([wide(layer.in_proj_bias[2 * WIDTH:]) for layer in layers])[..., None]
    out, out_bias = stacked([layer.out_proj for layer in layers])
    return out @ value, out @ bias + out_bias


def affine(n, matrix, bias):
    return (matrix @ n).add_(bias)


def normalise(x):
    """What is left of a LayerNorm on tokens of mean zero; its gain and shift follow in the next matrix."""
    return x * torch.rsqrt(x.square().mean(-2, keepdim=True) + 1e-5)


def feed(n, expand, expand_bias, direct, contract, contract_bias):
    hidden = affine(n, expand, expand_bias).relu_()
    return normalise((direct @ n).add_(contract @ hidden).add_(contract_bias))


class StructureBranch(nn.Module):
    """(B,9,h,w) detail bands -> (B,3,h,w): the sum of nine units, on the bands and eight differences."""

    def __init__(self):
        super().__init__()
        for i in range(9):
            long_range = {'transformer': transformer(), 'conv': nn.Conv2d(WIDTH, 3, 1)}
            self.add_module(f'conv{i}', nn.ModuleDict({'conv': nn.Conv2d(WIDTH, 3, 2)}))
            self.add_module(f'transformer{i}', nn.ModuleDict(long_range))
            self.add_module(f'fusion{i}', nn.ModuleDict({'conv': nn.Conv2d(6, 3, 2)}))

    def units(self, name, key):
        return [getattr(self, f'{name}{i}')[key] for i in range(9)]

    def forward(self, bands):
        h, w = bands.shape[2:]
        inner = bands[:, :, 1:-1, 1:-1]
        steps = [inner - bands[:, :, 1 + dy:h - 1 + dy, 1 + dx:w - 1 + dx] for dy, dx in OFFSETS]
        x = torch.cat([bands, F.interpolate(torch.cat(steps, dim=1), size=(h, w))], dim=1)    # (B,81,h,w)
        short = conv2d(F.pad(x, (1, 0, 1, 0)), self.units('conv', 'conv'), groups=9)
        long = conv2d(self.long_range(x), self.units('transformer', 'conv'), groups=9)
        # The sum of nine convolutions is one convolution of all their inputs, the short-range ones first.
        units = self.units('fusion', 'conv')
        weight = torch.cat([u.weight[:, :3] for u in units] + [u.weight[:, 3:] for u in units], dim=1)
        bias = torch.stack([wide(u.bias) for u in units]).sum(0)
        return F.conv2d(F.pad(torch.cat([short, long], dim=1), (1, 0, 1, 0)), wide(weight), bias)

    def long_range(self, x):
        """(B,81,h,w) -> the same: nine transformers. A token is nine consecutive numbers in memory."""
        b, _, h, w = x.shape
        nets = self.units('transformer', 'transformer')
        encoder, decoder = ([net[k]['layers'][0] for net in nets] for k in ('encoder', 'decoder'))
        eye = torch.eye(WIDTH).to(x)
        centre = eye - 1 / WIDTH        # takes a token's mean away: the first half of the LayerNorm after it

        def get(layers, name):
            return [getattr(layer, name) for layer in layers]

        def gain(norms):
            weight, bias = stacked(norms)
            return eye * weight, bias       # a diagonal matrix

        def norm(norms):
            matrix, bias = gain(norms)
            return centre @ matrix, centre @ bias

        def self_attention(layers):
            matrix, bias = attention(get(layers, 'self_attn'))
            return centre @ (eye + matrix), centre @ bias

        def feed_forward(layers, matrix, bias):
            """y + linear2(relu(linear1(y))) for y = matrix @ n + bias, as the arguments of ``feed``"""
            (w1, b1), (w2, b2) = stacked(get(layers, 'linear1')), stacked(get(layers, 'linear2'))
            return w1 @ matrix, w1 @ bias + b1, centre @ matrix, centre @ w2, centre @ (bias + b2)

        encoder_attention, decoder_attention = self_attention(encoder), self_attention(decoder)
        encoder_feed = feed_forward(encoder, *gain(get(encoder, 'norm1')))
        decoder_feed = feed_forward(decoder, *gain(get(decoder, 'norm2')))
        encoder_norm, decoder_norm = norm(get(encoder, 'norm2')), norm(get(decoder, 'norm3'))
        # The decoder's norm1 plus its attention on the encoder's output: two matrices and a bias.
        query, query_bias = norm(get(decoder, 'norm1'))
        matrix, bias = attention(get(decoder, 'multihead_attn'))
        last, last_bias = gain([net['encoder']['norm'] for net in nets])
        memory, memory_bias = centre @ matrix @ last, query_bias + centre @ (matrix @ last_bias + bias)
        weight, bias = stacked([net['decoder']['norm'] for net in nets])

        def transform(tokens):
            n = feed(normalise(affine(tokens, *encoder_attention)), *encoder_feed)
            m = normalise(affine(n, *encoder_norm))
            n = normalise(affine(tokens, *decoder_attention))
            n = feed(normalise((query @ n).add_(memory @ m).add_(memory_bias)), *decoder_feed)
            return (normalise(affine(n, *decoder_norm)) * weight + bias).mT

        tokens = x.reshape(b, 9, h * w, WIDTH).mT       # (B,9,9,h*w): a token is a column, so rows are long
        parts = tokens.split(max(1, TOKENS // b), dim=-1)
        return torch.cat([transform(part) for part in parts], dim=2).reshape(b, 81, h, w)


class Head(nn.Module):
    """The structure map's share of the residual: resized to the picture, three 3x3 convolutions with ReLU."""

    def __init__(self):
        super().__init__()
        self.tail_conv = nn.Sequential(conv3x3(3, 3), nn.ReLU(), conv3x3(3, 6), nn.ReLU(),
                                       conv3x3(6, 1), nn.ReLU())

    def forward(self, structure, size):
        x = F.interpolate(structure, size=size, mode='bilinear', align_corners=False)
        for conv in self.tail_conv[::2]:
            x = F.relu(conv2d(x, [conv], padding=1))
        return x


class ReleasedWaveletNet(nn.Module):
    """The authors' published network with the per-picture semantics of their heat-map script.

    Args of ``forward``:
        x: (B,3,H,W), RGB on [0,1], floating point; B >= 1 and any H, W >= ``min_size``. The release itself
            only takes 256x256, where its weights were trained. Other sizes are an extension: the structure
            map is brought to the picture's size, and of an odd side the bands leave out the last pixel.

    Returns:
        residual (B,1,H,W), float32 (float64 if the network is), nominally on [-1,1], + under- and
        - overexposed. No map depends on the other pictures of the batch. In bfloat16 (``.bfloat16()`` or
        autocast) the lightness branch computes in bfloat16, the rest, 1 % of the work, in float32.

    Raises:
        ValueError: for another shape or type of x.
    """
    min_size = MIN_SIZE

    def __init__(self):
        super().__init__()
        self.config = ReleasedConfig()
        self.ffa_group = LightnessBranch()
        self.encoder = StructureBranch()
        for i in (1, 2, 3):
            self.add_module(f'High_{i}', nn.ModuleDict({'conv': nn.Conv2d(3, 3, 2, stride=2)}))
        self.fusion = Head()

    def forward(self, x):
        if x.dim() != 4 or x.shape[0] < 1 or x.shape[1] != 3 or min(x.shape[2:]) < MIN_SIZE:
            raise ValueError(f'input has shape {tuple(x.shape)}, expected (B,3,H,W) with H and W at least '
                             f'{MIN_SIZE} (the half-size bands need an interior)')
        if not x.is_floating_point():
            raise ValueError(f'input is {x.dtype}, expected floating point RGB on [0,1]')
        lightness = self.ffa_group(x)
        with torch.autocast(x.device.type, enabled=False):
            high = [getattr(self, f'High_{i}')['conv'] for i in (1, 2, 3)]
            bands = conv2d(x.to(wide(high[0].weight).dtype), high, stride=2)
            # Tokens are read off the memory, so its order matters: NCHW.
            return self.fusion(self.encoder(bands.contiguous()), x.shape[2:]) + lightness


def load_released(path, device='cpu'):
    """The network of an authors' ``.pth`` file (or of one with the same keys), in eval mode.

    Args:
        path: a state_dict saved by torch.save. Only tensors are read, nothing in it is executed.
        device: as torch takes it.

    Returns:
        ReleasedWaveletNet

    Raises:
        CheckpointError: in one line, with the file's name and the reason: no such file, cut short, holds
            more than tensors, a training state, or another network's (missing, unexpected and misshapen weights are named).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path}: no such file')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:      # on damaged bytes torch's reader raises whatever it stumbles over
        foreign = re.search(r'GLOBAL (\S+)', str(e))
        if foreign:
            raise CheckpointError(f'{path}: holds the Python object {foreign[1]}, and only tensors are read; '
                                  'nothing in it was executed') from e
        reason = f'{type(e).__name__}: {e}'.splitlines()[0].split('. ')[0][:120]
        raise CheckpointError(f'{path}: cut short, damaged, or no file of torch.save ({reason})') from e
    if isinstance(state, dict) and {'model', 'optimizer'} <= state.keys():
        raise CheckpointError(f'{path}: a training state, which is for --resume; best.safetensors beside it holds weights')
    items = state.items() if isinstance(state, dict) else ()
    if not items or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in items):
        raise CheckpointError(f'{path}: not a state_dict (names and tensors) but a {type(state).__name__}')
    model = ReleasedWaveletNet()
    load_weights(model, {k: v for k, v in items if not k.startswith(UNUSED)}, path)
    model.provenance = {'source': "the P-IEANet authors' release", 'file': path.name}
    return model.to(device).eval()
