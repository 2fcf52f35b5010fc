"""Train a small curve-based enhancer with and without ExposureLoss, and see what the loss is worth.

    python examples/train_enhancer.py --photos photos/train --test photos/test             # a few CPU minutes a training
    python examples/train_enhancer.py --photos photos/train --test photos/test --weights 0 0.1 0.3 --seeds 0 1 2 --csv F
    python examples/train_enhancer.py --photos photos/train --test photos/test --unpaired --weights 0 10 --through picture --seeds 0 1 2
                                                                       # Zero-DCE's setting: no references in training

The enhancer predicts the curves of Zero-DCE (Guo et al., CVPR 2020) from a small picture: eight times
x <- x + a x (1 - x), with a map of a on [-1, 1] per channel and iteration. It is trained on photographs that are exposed
anew at every step (datasets/simulation.py), by L1 to the reference plus `weight` times the exposure loss; with
--unpaired by Zero-DCE's own losses without reference (exposure of patches, spatial consistency, colour constancy,
smoothness), of which the exposure term is replaced by ours where weight > 0; --level is the grey that Zero-DCE's asks of every patch
(.6 there; .45, the mean of well-exposed photographs, is the fairer opponent and the default). PSNR and SSIM are over RGB against the
references, on test pictures exposed by a fixed seed; a row a training, and the mean over seeds at the end.
"""
import csv
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_msssim import ssim
from torch import nn
from tqdm import trange

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import Parser, at_least, output_file
from datasets.images import read_image, resize_rgb, to_tensor
from datasets.photographs import list_images
from datasets.simulation import SimulationConfig, simulate
from exposure.loss import ExposureLoss
from exposure.predictor import DEFAULT_CHECKPOINT, MIN_SIDE, pick_device

CURVES = 8


class Enhancer(nn.Module):
    """(B, 3, H, W) RGB on [0, 1] -> (enhanced, curves); curves are (B, 3 * CURVES, h, w) on [-1, 1]."""

    def __init__(self, width=24, working=64):
        super().__init__()
        self.working = working

        def block(a, b, dilation=1):
            return nn.Sequential(nn.Conv2d(a, b, 3, padding=dilation, dilation=dilation), nn.ReLU())
        self.net = nn.Sequential(block(3, width), block(width, width, 2), block(width, width, 4), block(width, width, 8))
        self.level = nn.Linear(width, width)  # what the whole picture says
        self.out = nn.Sequential(block(2 * width, width), nn.Conv2d(width, 3 * CURVES, 3, padding=1))
        nn.init.normal_(self.out[-1].weight, std=1e-3)
        nn.init.zeros_(self.out[-1].bias)

    def forward(self, x):
        small = F.interpolate(x, size=(self.working, self.working), mode='bilinear', antialias=True)
        y = self.net(small)
        level = self.level(y.mean((2, 3)))[:, :, None, None].expand_as(y)
        curves = self.out(torch.cat((y, level), 1)).tanh()
        full = F.interpolate(curves, size=x.shape[-2:], mode='bilinear', align_corners=False)
        for a in full.chunk(CURVES, 1):
            x = x + a * x * (1 - x)  # stays on [0, 1]
        return x, curves


def without_reference(enhanced, picture, curves, level=None):
    """Zero-DCE's losses (eq. 2-5): spatial consistency, exposure of patches to ``level`` (None: left out), colour, smoothness."""
    grey, before = enhanced.mean(1, keepdim=True), picture.mean(1, keepdim=True)
    regions, regions_before = F.avg_pool2d(grey, 4), F.avg_pool2d(before, 4)
    spatial = sum(((regions.diff(dim=d).abs() - regions_before.diff(dim=d).abs()) ** 2).mean() for d in (2, 3))
    r, g, b = enhanced.mean((2, 3)).unbind(1)
    colour = ((r - g) ** 2 + (r - b) ** 2 + (g - b) ** 2 + 1e-8).sqrt().mean()
    smooth = sum(curves.diff(dim=d).abs().mean() ** 2 for d in (2, 3)) * 3 * CURVES
    patches = 0 if level is None else (F.avg_pool2d(grey, 16) - level).abs().mean()
    return spatial + 10 * patches + 5 * colour + 20 * smooth


def load(folder, side, limit):
    """(N, 3, side, side) on the levels k/255, evenly chosen from a folder."""
    files = list_images(folder)
    if limit and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    return torch.stack([to_tensor(resize_rgb(read_image(f), side)) for f in files])


def train(pictures, weight, loss, seed, args):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Enhancer().to(args.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=args.steps)
    config = SimulationConfig(ev=args.ev, unchanged=0.1, mixed=0.2, noise=0.0, cast=0.0, colour=0.0, jpeg=0.0)
    bar = trange(args.steps, desc=f'weight {weight:g} seed {seed}', disable=None)
    for _ in bar:
        chosen = torch.randint(len(pictures), (args.batch_size,), generator=generator)
        target = pictures[chosen].to(args.device)
        picture, _ = simulate(target, generator, config)
        enhanced, curves = model(picture)
        if args.unpaired:
            value = without_reference(enhanced, picture, curves, None if weight else args.level)
        else:
            value = (enhanced - target).abs().mean()
        if weight:
            value = value + weight * loss(enhanced)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f'{value.item():.4f}')
    return model.eval()


@torch.no_grad()
def evaluate(model, pictures, args):
    """(PSNR, SSIM) of the enhanced pictures against the references; ``model`` None: of the pictures as they are."""
    config = SimulationConfig(ev=args.ev, ev_sigma=100.0, unchanged=0.0, mixed=0.0, noise=0.0, cast=0.0, colour=0.0, jpeg=0.0)
    generator = torch.Generator().manual_seed(1000)
    psnr, similarity = [], []
    for target in pictures.split(args.batch_size):
        target = target.to(args.device)
        picture, _ = simulate(target, generator, config)
        enhanced = picture if model is None else model(picture)[0]
        error = ((enhanced - target) ** 2).mean((1, 2, 3)).clamp_min(1e-10)
        psnr += (-10 * error.log10()).tolist()
        similarity += ssim(enhanced, target, data_range=1.0, size_average=False).tolist()
    return sum(psnr) / len(psnr), sum(similarity) / len(similarity)


def main(argv=None):
    p = Parser(description=__doc__.split('\n')[0])
    p.add_argument('--photos', type=Path, required=True, help='folder of well-exposed photographs to train on')
    p.add_argument('--test', type=Path, required=True, help='folder of others to test on')
    p.add_argument('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT, help='weights of the loss')
    p.add_argument('--weights', type=float, nargs='+', default=[0.0, 0.3], help='of the loss; a training each, default 0 0.3')
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--unpaired', action='store_true', help='train without references')
    p.add_argument('--level', type=float, default=0.45, help="grey that --unpaired asks of every patch where the loss's weight is 0")
    p.add_argument('--through', choices=('network', 'picture'), default='network', help='see ExposureLoss')
    p.add_argument('--steps', type=at_least(1), default=600)
    p.add_argument('--batch-size', type=at_least(1), default=8)
    p.add_argument('--side', type=at_least(MIN_SIDE), default=128, help='pictures are brought to squares of this side')
    p.add_argument('--limit', type=at_least(0), default=0, help='only so many pictures of each folder; 0: all')
    p.add_argument('--lr', type=float, default=2e-3)
    p.add_argument('--ev', type=float, nargs=2, default=(-3.0, 2.0), help='range of exposures')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--csv', type=output_file, help='write the rows here')
    args = p.parse_args(argv)
    args.ev = tuple(args.ev)
    try:
        args.device = pick_device(args.device)
        pictures, tests = load(args.photos, args.side, args.limit), load(args.test, args.side, args.limit)
        loss = ExposureLoss(args.checkpoint, through=args.through).to(args.device)
    except ValueError as error:
        p.error(str(error))
    psnr, similarity = evaluate(None, tests, args)
    rows = [{'weight': 'untouched', 'seed': '', 'psnr': round(psnr, 3), 'ssim': round(similarity, 4), 'seconds': ''}]
    print(f'{len(pictures)} training pictures, {len(tests)} test pictures; untouched: PSNR {psnr:.2f} SSIM {similarity:.4f}')
    for seed in args.seeds:
        for weight in args.weights:
            start = time.perf_counter()
            model = train(pictures, weight, loss, seed, args)
            psnr, similarity = evaluate(model, tests, args)
            rows.append({'weight': weight, 'seed': seed, 'psnr': round(psnr, 3), 'ssim': round(similarity, 4),
                         'seconds': round(time.perf_counter() - start)})
            print('weight {weight:g}  seed {seed}  PSNR {psnr:.2f}  SSIM {ssim:.4f}  {seconds} s'.format(**rows[-1]), flush=True)
            if args.csv:
                with args.csv.open('w', newline='') as f:
                    writer = csv.DictWriter(f, rows[0])
                    writer.writeheader()
                    writer.writerows(rows)
    for weight in args.weights:
        mine = [row for row in rows if row['weight'] == weight]
        print(f'weight {weight:g}: mean PSNR {sum(r["psnr"] for r in mine) / len(mine):.2f}  '
              f'SSIM {sum(r["ssim"] for r in mine) / len(mine):.4f} over {len(mine)} seeds')


if __name__ == '__main__':
    main()
