"""Gradient descent on one number, the exposure of a photograph, by ExposureLoss: does it come back to the reference?

    python examples/descend_exposure.py --photos photos/test                    # 50 photographs from -2 and from +2 EV
    python examples/descend_exposure.py --photos photos/test --objective abs --through network --headroom 0 --csv F      the bare loss

Each photograph is exposed by -2 or +2 stops (datasets/simulation.py: linear light, a random camera curve, rounded to 8
bit, so that highlights are lost at +2), and then again by s stops; only s is trained, from 0, and it should end at +2 or
-2. Printed: how many end nearer to the reference, by the mean difference of the pictures and in stops, how many within half a stop, and the
error in stops.

Three choices stand beside the bare loss. The absolute value of the picture's mean residual is least where the network calls the picture
neither too dark nor too bright on the whole. Its gradient goes through the picture only: brighter always means a smaller residual, which
the network's own derivative does not promise. And clipped pixels are taken for a stop brighter than they can show, or a
picture without its highlights would look too dark.
"""
import csv
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import Parser, at_least, output_file
from datasets.images import read_image, resize_rgb, to_tensor
from datasets.photographs import list_images
from datasets.simulation import CameraCurve, SimulationConfig, expose, quantise, random_curve, uniform
from exposure.loss import ExposureLoss
from exposure.predictor import DEFAULT_CHECKPOINT, MIN_SIDE


def descend(light, curve, loss, steps, lr, of_mean=False, limit=4.0):
    """Stops (B,) that gradient descent adds to scene light (B, 3, H, W); every picture has its own loss and its own s.

    With ``of_mean`` it is |1 - loss| that is brought down: |mean residual| where the loss has the target 1.
    """
    stops = torch.zeros(len(light), requires_grad=True)
    optimiser = torch.optim.Adam([stops], lr=lr, betas=(0.8, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, lr / 20)
    for _ in range(steps):
        again = curve.to_display(light * torch.exp2(stops.clamp(-limit, limit))[:, None, None, None])
        value = loss(again).mean((1, 2, 3))
        if of_mean:
            value = (1 - value).abs()
        optimiser.zero_grad()
        value.sum().backward()
        optimiser.step()
        schedule.step()
    return stops.detach().clamp(-limit, limit)


def main(argv=None):
    p = Parser(description=__doc__.split('\n')[0])
    p.add_argument('--photos', type=Path, required=True, help='folder of well-exposed photographs')
    p.add_argument('--count', type=at_least(1), default=50, help='so many of them, evenly chosen')
    p.add_argument('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT)
    p.add_argument('--objective', choices=('mean', 'abs'), default='mean', help='|mean residual| or mean |residual|')
    p.add_argument('--through', choices=('network', 'picture'), default='picture', help='see ExposureLoss')
    p.add_argument('--headroom', type=float, default=1.0, help='stops that clipped pixels are taken to be brighter than they show')
    p.add_argument('--side', type=at_least(MIN_SIDE), default=128, help='pictures are brought to squares of this side')
    p.add_argument('--steps', type=at_least(1), default=30)
    p.add_argument('--lr', type=float, default=0.25, help='in stops')
    p.add_argument('--ev', type=float, nargs='+', default=[-2.0, 2.0])
    p.add_argument('--batch-size', type=at_least(1), default=10)
    p.add_argument('--csv', type=output_file, help='write a row a photograph here')
    args = p.parse_args(argv)
    try:
        files = list_images(args.photos)
        count = min(args.count, len(files))
        files = [files[i * len(files) // count] for i in range(count)]
        references = torch.stack([to_tensor(resize_rgb(read_image(f), args.side)) for f in files])
        # |residual - 1| = 1 - residual: the loss itself is never signed.
        loss = ExposureLoss(args.checkpoint, 'none', target=1.0 if args.objective == 'mean' else 0.0, through=args.through)
    except ValueError as error:
        p.error(str(error))
    generator, config = torch.Generator().manual_seed(0), SimulationConfig.protocol()
    curves = random_curve(count, config, generator)
    headroom = uniform(count, config.headroom, generator)
    rows = []
    for ev in args.ev:
        pictures = quantise(expose(references, ev, curves, generator, headroom))
        for start in range(0, count, args.batch_size):
            part = slice(start, start + args.batch_size)
            curve = CameraCurve(*(t[part] for t in vars(curves).values()))
            light = curve.to_light(pictures[part]) * torch.exp2((pictures[part] >= 254 / 255) * args.headroom)
            stops = descend(light, curve, loss, args.steps, args.lr, args.objective == 'mean')
            with torch.no_grad():
                after = curve.to_display(light * torch.exp2(stops)[:, None, None, None])
            distance = [(x - references[part]).abs().mean((1, 2, 3)).tolist() for x in (pictures[part], after)]
            for file, s, a, b in zip(files[part], stops.tolist(), *distance):
                rows.append({'file': file.name, 'ev': ev, 'stops': round(s, 3), 'mae_before': round(a, 4),
                             'mae_after': round(b, 4)})
        mine = [row for row in rows if row['ev'] == ev]
        errors = sorted(abs(row['stops'] + ev) for row in mine)
        nearer = sum(row['mae_after'] < row['mae_before'] for row in mine)
        print(f'from {ev:+g} EV: {nearer} of {count} nearer to the reference picture, {sum(e < abs(ev) for e in errors)} to its exposure, '
              f'{sum(e <= 0.5 for e in errors)} within 0.5 EV; '
              f'error in stops: median {errors[count // 2]:.2f}, largest {errors[-1]:.2f}', flush=True)
    if args.csv:
        with args.csv.open('w', newline='') as f:
            writer = csv.DictWriter(f, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == '__main__':
    main()
