"""Gradient descent on one number, the exposure of a photograph, by ExposureLoss: does it come back to the reference?

    python examples/descend_exposure.py --photos photos/test                    # 50 photographs from -2 and from +2 EV
    python examples/descend_exposure.py --photos photos/test --through picture --csv F

Each photograph is exposed by -2 or +2 stops (datasets/simulation.py: linear light, a random camera curve, rounded to 8
bit, so that highlights are lost at +2), and then again by s stops; only s is trained, from 0, and it should end at +2 or
-2. Printed: how many end nearer to the reference, how many within half a stop, and the error in stops.
"""
import argparse
import csv
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.images import read_image, resize_rgb, to_tensor
from datasets.photographs import list_images
from datasets.simulation import CameraCurve, SimulationConfig, expose, quantise, random_curve, uniform
from exposure.loss import ExposureLoss
from exposure.predictor import DEFAULT_CHECKPOINT


def descend(pictures, curve, loss, steps, lr, limit=4.0):
    """Stops (B,) that gradient descent adds to ``pictures`` (B, 3, H, W); every picture has its own loss and its own s."""
    light = curve.to_light(pictures)
    stops = torch.zeros(len(pictures), requires_grad=True)
    optimiser = torch.optim.Adam([stops], lr=lr, betas=(0.8, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, lr / 20)
    for _ in range(steps):
        again = curve.to_display(light * torch.exp2(stops.clamp(-limit, limit))[:, None, None, None])
        value = loss(again).mean((1, 2, 3)).sum()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    return stops.detach().clamp(-limit, limit)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--photos', type=Path, required=True, help='folder of well-exposed photographs')
    p.add_argument('--count', type=int, default=50, help='so many of them, evenly chosen')
    p.add_argument('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT)
    p.add_argument('--through', choices=('network', 'picture'), default='network', help='see ExposureLoss')
    p.add_argument('--side', type=int, default=128, help='pictures are brought to squares of this side')
    p.add_argument('--steps', type=int, default=40)
    p.add_argument('--lr', type=float, default=0.15, help='in stops')
    p.add_argument('--ev', type=float, nargs='+', default=[-2.0, 2.0])
    p.add_argument('--batch-size', type=int, default=10)
    p.add_argument('--csv', type=Path, help='write a row a photograph here')
    args = p.parse_args(argv)
    try:
        files = list_images(args.photos)
        loss = ExposureLoss(args.checkpoint, 'none', through=args.through)
    except ValueError as error:
        p.error(str(error))
    count = min(args.count, len(files))
    files = [files[i * len(files) // count] for i in range(count)]
    references = torch.stack([to_tensor(resize_rgb(read_image(f), args.side)) for f in files])
    generator, config = torch.Generator().manual_seed(0), SimulationConfig.protocol()
    curves = random_curve(count, config, generator)
    headroom = uniform(count, config.headroom, generator)
    rows = []
    for ev in args.ev:
        pictures = quantise(expose(references, ev, curves, generator, headroom))
        for start in range(0, count, args.batch_size):
            part = slice(start, start + args.batch_size)
            curve = CameraCurve(*(t[part] for t in vars(curves).values()))
            stops = descend(pictures[part], curve, loss, args.steps, args.lr)
            with torch.no_grad():
                after = curve.to_display(curve.to_light(pictures[part]) * torch.exp2(stops)[:, None, None, None])
            distance = [(x - references[part]).abs().mean((1, 2, 3)).tolist() for x in (pictures[part], after)]
            for file, s, a, b in zip(files[part], stops.tolist(), *distance):
                rows.append({'file': file.name, 'ev': ev, 'stops': round(s, 3), 'mae_before': round(a, 4),
                             'mae_after': round(b, 4)})
        mine = [row for row in rows if row['ev'] == ev]
        errors = sorted(abs(row['stops'] + ev) for row in mine)
        nearer = sum(row['mae_after'] < row['mae_before'] for row in mine)
        print(f'from {ev:+g} EV: {nearer} of {count} nearer to the reference, {sum(e <= 0.5 for e in errors)} within 0.5 EV; '
              f'error in stops: median {errors[count // 2]:.2f}, largest {errors[-1]:.2f}', flush=True)
    if args.csv:
        with args.csv.open('w', newline='') as f:
            writer = csv.DictWriter(f, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == '__main__':
    main()
