"""Write the network as ONNX, or as a torch.export program, with dynamic batch, height and width.

    python export_onnx.py                                           # checkpoints/p_ieanet.onnx
    python export_onnx.py --checkpoint mine.safetensors --out mine.onnx
    python export_onnx.py --format torch --out p_ieanet.pt2         # torch.export.load('p_ieanet.pt2').module()

The input `picture` is (B, 3, H, W) float32 RGB on [0, 1], H and W at least 32; the output `residual` is (B, 1, H, W).
The ONNX file is compared with PyTorch at five sizes and two batches where onnxruntime is installed; --no-check leaves
that out. Needs onnx and onnxscript. Exit code: 0; 1 when the comparison fails; 2 for a bad argument or file.
"""
import copy
import io
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from cli import Parser, output_file
from models import PIEANet
from models.checkpoint import atomic_write, load_model
from models.gated import ChannelNorm
from models.wavelet import alternate, halves

ROOT = Path(__file__).resolve().parent
SIZES = ((256, 256), (32, 32), (37, 61), (180, 256), (512, 339))
BATCHES = (1, 3)
TOLERANCE = 1e-4


def split_haar(x):
    """`models.haar.haar_dwt2d` for export: by index, so that one program holds for odd and even sides."""
    upper, lower = halves(x, 2)
    (a, b), (c, d) = halves(upper, 3), halves(lower, 3)
    top, bottom, left, right = a + b, c + d, a - b, c - d
    return (top + bottom) / 2, (top - bottom) / 2, (left + right) / 2, (left - right) / 2


def merge_haar(ll, lh, hl, hh, size):
    """`models.haar.haar_idwt2d` for export."""
    top, bottom, left, right = ll + lh, ll - lh, hl + hh, hl - hh
    return _interleave((top + left) / 2, (top - left) / 2, (bottom + right) / 2, (bottom - right) / 2, size)


def split_polyphase(x):
    """`models.p_ieanet.polyphase` for export."""
    upper, lower = halves(x, 2)
    return (*halves(upper, 3), *halves(lower, 3))


def _interleave(a, b, c, d, size):
    """The four pixels of each block put together, cropped to ``size``; by index, see :func:`models.wavelet.halves`."""
    upper, lower = alternate(a, b, 3, size[1]), alternate(c, d, 3, size[1])
    return alternate(upper, lower, 2, size[0])


def extend(x):
    """`models.haar.even` for export."""
    for dim in (2, 3):
        size = x.shape[dim]
        x = x.index_select(dim, torch.arange((size + 1) // 2 * 2, device=x.device).clamp_max(size - 1))
    return x


def crop(x, size):
    """`models.gated.crop` for export."""
    for dim, n in zip((2, 3), size):
        x = x.index_select(dim, torch.arange(n, device=x.device))
    return x


class Halving(nn.Module):
    """A convolution of stride 2 whose answer is said to be ceil(side / 2), as the wavelet's: the same number."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return crop(self.conv(x), [(side + 1) // 2 for side in x.shape[-2:]])


class PlainNorm(nn.Module):
    """`models.gated.ChannelNorm` without turning the axes: strides of turned maps raise guards on the sides, which are to stay free."""

    def __init__(self, norm):
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Exported(nn.Module):
    """The network with its wavelet in the form for export; picture -> residual."""

    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        config = self.model.config
        if not config.use_dwt:
            self.model.split, self.model.merge = split_polyphase, _interleave
        elif config.wavelet == 'haar':  # the others export as they are
            self.model.split, self.model.merge = split_haar, merge_haar
        if config.use_lightness:
            self.model.lightness.body.extend, self.model.lightness.body.crop = extend, crop
        if config.use_structure:
            self.model.structure.down = nn.ModuleList(map(Halving, self.model.structure.down))
        for parent in list(self.model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, ChannelNorm):
                    setattr(parent, name, PlainNorm(child))

    def forward(self, picture):
        return self.model(picture)


def export_program(model):
    """A `torch.export.ExportedProgram` of a PIEANet, dynamic in batch, height and width.

    Raises:
        ValueError: for another network.
    """
    if not isinstance(model, PIEANet):
        raise ValueError(f'{type(model).__name__} cannot be exported, accepted: PIEANet')
    shapes = {'picture': {0: torch.export.Dim('batch', min=1, max=1024), 2: torch.export.Dim('height', min=32, max=16384),
                          3: torch.export.Dim('width', min=32, max=16384)}}
    with torch.no_grad():
        return torch.export.export(Exported(model), (torch.rand(2, 3, 72, 104),), dynamic_shapes=shapes, strict=False)


def export_onnx(model, path, opset=18):
    """Write a PIEANet as one ONNX file.

    Raises:
        ValueError: as :func:`export_program`; or an opset that this version of the onnx package does not have.
    """
    import onnx

    if not 18 <= opset <= onnx.defs.onnx_opset_version():
        raise ValueError(f'opset is {opset}, accepted: 18 to {onnx.defs.onnx_opset_version()}')
    program = export_program(model)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter's own deprecations
        onnx_program = torch.onnx.export(program, input_names=['picture'], output_names=['residual'], opset_version=opset,
                                         dynamo=True, verbose=False)
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        onnx_program.save(str(temporary), external_data=False)
        if (written := onnx.load(temporary).opset_import[0].version) != opset:  # a conversion that failed leaves 18
            raise ValueError(f'opset {opset} could not be written, {written} could')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@torch.no_grad()
def largest_difference(model, path, sizes=SIZES, batches=BATCHES):
    """Largest |ONNX - PyTorch| over sizes and batches, in fp32 on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for height, width in sizes:
        for batch in batches:
            x = torch.rand(batch, 3, height, width, generator=generator)
            ours, theirs = model(x), session.run(None, {'picture': x.numpy()})[0]
            if theirs.shape != tuple(ours.shape):
                raise ValueError(f'{path}: answers {theirs.shape} to a picture of {tuple(x.shape)}')
            largest = max(largest, float((ours - torch.from_numpy(theirs)).abs().max()))
    return largest


def main(argv=None):
    parser = Parser(description=__doc__.split('\n')[0])
    parser.add_argument('--checkpoint', type=Path, default=ROOT / 'checkpoints' / 'p_ieanet.safetensors', metavar='F')
    parser.add_argument('--out', type=output_file, metavar='F', help='default: beside the checkpoint, .onnx or .pt2')
    parser.add_argument('--format', choices=('onnx', 'torch'), default='onnx')
    parser.add_argument('--opset', type=int, default=18, help='18 or newer (antialiased resizing), default 18')
    parser.add_argument('--no-check', action='store_true', help='do not compare with PyTorch')
    args = parser.parse_args(argv)
    if args.opset < 18:
        parser.error(f'argument --opset: is {args.opset}, accepted: 18 or newer')
    out = args.out or args.checkpoint.with_suffix('.onnx' if args.format == 'onnx' else '.pt2')
    try:
        model = load_model(args.checkpoint)
        if args.format == 'torch':
            program = io.BytesIO()
            torch.export.save(export_program(model), program)
            atomic_write(out, program.getvalue())
            print(out)
            return 0
        export_onnx(model, out, args.opset)
    except (ValueError, OSError) as error:
        parser.error(' '.join(str(error).split())[:500])
    except ImportError as error:
        parser.error(f'{error}: pip install onnx onnxscript')
    print(f'{out}: {out.stat().st_size / 1e6:.1f} MB')
    if not args.no_check:
        try:
            difference = largest_difference(model, out)
        except ImportError:
            print('not compared with PyTorch: onnxruntime is not installed', file=sys.stderr)
            return 0
        print(f'largest difference from PyTorch {difference:.1e} over {len(SIZES)} sizes and batches of {BATCHES}')
        if difference > TOLERANCE:
            print(f'that is more than {TOLERANCE:g}', file=sys.stderr)
            return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
