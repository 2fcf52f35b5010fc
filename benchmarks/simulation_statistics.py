"""Does the simulation look like real brackets, and does it give its exposure away?

    python benchmarks/simulation_statistics.py --photos photos/train --real sets/stacks train.csv val.csv --rendered sets/hdri train.csv

Writes two tables to benchmarks/results/. `simulation_giveaway.csv`: R^2 of a least-squares regressor from a few numbers of a picture to its
mean residual, trained on one kind of pictures and tested on another. If maximum, minimum and the number of distinct levels alone tell
more about a simulated picture than about a real one, the simulation gives itself away. `simulation_statistics.csv`: the residuals'
distribution of simulated, rendered and real pictures, and how far each lies from the real one (earth mover's distance).
"""
import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets.iea40k import IEA40K  # noqa: E402
from datasets.images import grey, read_image, resize_rgb, to_tensor  # noqa: E402
from datasets.photographs import list_images  # noqa: E402
from datasets.simulation import SimulationConfig, quantise, random_ev, simulate  # noqa: E402

FEATURES = {'max, min, levels': slice(0, 3), 'percentiles': slice(3, 10), 'all': slice(0, 10)}
LEVELS = np.arange(-255, 256) / 255  # of a residual
COLUMNS = ('pictures', 'mean', 'spread', 'spread of picture means', 'spread within a picture', 'share |r| > .2', 'share black', 'share white',
           'pictures with under and over', 'distance to real', 'distance of picture means to real', 'giveaway R^2 within', 'giveaway R^2 to real')


def features(levels):
    """(H, W) uint8 grey -> maximum, minimum, number of distinct levels (log), and seven percentiles; all about 0 .. 1."""
    return np.array([levels.max() / 255, levels.min() / 255, np.log2(len(np.unique(levels))) / 8,
                     *np.percentile(levels, (1, 5, 25, 50, 75, 95, 99)) / 255])


class Collection:
    """What is kept of the pictures of one kind: features, residuals' histograms, scenes."""

    def __init__(self):
        self.x, self.means, self.histograms, self.clipped, self.scenes = [], [], [], [], []

    def add(self, levels, residual, valid, scene):
        """levels, residual: (H, W) integers in 0..255 units; valid: (H, W) bool."""
        r = residual[valid]
        self.x.append(features(levels))
        self.histograms.append(np.bincount(r.astype(np.int64) + 255, minlength=511) / len(r))
        self.means.append(r.mean() / 255)
        self.clipped.append(((levels <= 2).mean(), (levels >= 253).mean()))
        self.scenes.append(scene)

    def arrays(self):
        return np.array(self.x), np.array(self.means), np.array(self.histograms)


def from_set(root, csvs, limit=None):
    """All pictures of a set in the IEA40K layout, their label's valid pixels."""
    result = Collection()
    for name in csvs:
        data = IEA40K(root, Path(root) / name)
        for i in range(0, len(data), max(1, len(data) // limit) if limit else 1):
            s = data[i]
            result.add((grey(s['image'])[0] * 255).round().byte().numpy(), (s['residual'][0] * 255).round().short().numpy(),
                       s['mask'][0].numpy() > 0, s['ref_id'])
    return result


def plain(pictures, generator, config):
    """The simple simulator: sRGB to linear light, times 2^EV, back, 8 bit; no dither, no curve, no headroom."""
    light = torch.where(pictures <= 0.04045, pictures / 12.92, ((pictures + 0.055) / 1.055) ** 2.4)
    y = (light * torch.exp2(random_ev(len(pictures), config, generator))).clamp(0, 1)
    return quantise(torch.where(y <= 0.0031308, y * 12.92, 1.055 * y ** (1 / 2.4) - 0.055))


def simulated(files, config, kind='wide', draws=2, size=256, seed=0):
    """``draws`` exposures of each photograph."""
    result, generator = Collection(), torch.Generator().manual_seed(seed)
    for i in range(0, len(files), 8):
        x = torch.stack([to_tensor(resize_rgb(read_image(f), size)) for f in files[i:i + 8]])
        for _ in range(draws):
            y = simulate(x, generator, config)[0] if kind == 'wide' else plain(x, generator, config)
            a, b = ((grey(t)[:, 0] * 255).round().short().numpy() for t in (x, y))
            for n in range(len(x)):
                result.add(b[n].astype(np.uint8), a[n] - b[n], np.ones(b[n].shape, bool), files[i + n].name)
    return result


def regress(x, y):
    """Least squares from features and their squares, a little ridge: a function x -> y."""
    mean, scale = x.mean(0), x.std(0) + 1e-3

    def expand(x):
        z = (x - mean) / scale
        return np.concatenate((np.ones((len(z), 1)), z, z ** 2), 1)
    a = expand(x)
    w = np.linalg.solve(a.T @ a + 0.01 * len(x) * np.diag([0] + [1] * (a.shape[1] - 1)), a.T @ y)
    return lambda x: expand(x) @ w


def r_squared(y, predicted):
    return 1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()


def cross(source, target, part):
    """R^2 on ``target`` of the regressor of ``source``; within one kind by five folds over scenes."""
    (xs, ys, _), (xt, yt, _) = source.arrays(), target.arrays()
    xs, xt = xs[:, part], xt[:, part]
    if source is not target:
        return r_squared(yt, regress(xs, ys)(xt))
    names = sorted(set(source.scenes))
    fold = np.array([names.index(s) % 5 for s in source.scenes])
    predicted = np.zeros_like(ys)
    for k in range(5):
        predicted[fold == k] = regress(xs[fold != k], ys[fold != k])(xs[fold == k])
    return r_squared(ys, predicted)


def wasserstein(a, b):
    """Earth mover's distance of two histograms over LEVELS, in units of the residual."""
    return float(np.abs(np.cumsum(a - b)).sum() / 255)


def statistics(c, real):
    _, means, h = c.arrays()
    pixel, m = h.mean(0), (h * LEVELS).sum(1)
    mean = (pixel * LEVELS).sum()
    within = np.sqrt(np.maximum((h * LEVELS ** 2).sum(1) - m ** 2, 0))
    both = ((h[:, LEVELS > .1].sum(1) > .05) & (h[:, LEVELS < -.1].sum(1) > .05)).mean()
    grid = np.linspace(0, 1, 201)
    numbers = (mean, np.sqrt((pixel * (LEVELS - mean) ** 2).sum()), means.std(), within.mean(), pixel[abs(LEVELS) > .2].sum(),
               *np.mean(c.clipped, 0), both, wasserstein(pixel, real.arrays()[2].mean(0)),
               np.abs(np.quantile(means, grid) - np.quantile(real.arrays()[1], grid)).mean(),
               *(cross(c, target, FEATURES['max, min, levels']) for target in (c, real)))
    return dict(zip(COLUMNS, (len(means), *(f'{n:.4f}' for n in numbers))))


def write(path, rows):
    with open(path, 'w', newline='') as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f'\n{path}')
    for row in rows:
        print('  '.join(f'{k}: {v}' for k, v in row.items()))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--photos', type=Path, required=True, help='folder of well-exposed photographs')
    p.add_argument('--real', nargs='+', required=True, metavar='DIR CSV', help='a set made of brackets: folder, then its CSVs (not test)')
    p.add_argument('--rendered', nargs='+', metavar='DIR CSV', help='a set made of panoramas')
    p.add_argument('--limit', type=int, default=320, help='photographs, spread over the folder')
    p.add_argument('--size', type=int, default=256)
    p.add_argument('--vary', nargs='*', default=['ev=-4,4 ev_sigma=2.3 unchanged=.1 mixed=.25', 'ev_sigma=1.5', 'mixed=0', 'ev=-6,4 ev_sigma=3.5 unchanged=.03'],
                   help='other defaults to try, each "NAME=NUMBER NAME=LOW,HIGH ..."')
    p.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results')
    args = p.parse_args()
    torch.set_num_threads(1)
    config, files = SimulationConfig(), list_images(args.photos)
    files = files[::max(1, len(files) // args.limit)][:args.limit]
    real = from_set(args.real[0], args.real[1:])
    kinds = {'real': real, 'wide': simulated(files, config, size=args.size), 'plain': simulated(files, config, 'plain', size=args.size)}
    if args.rendered:
        kinds['rendered'] = from_set(args.rendered[0], args.rendered[1:], 800)
    rows = []
    for source, target in [(k, k) for k in kinds] + [(k, 'real') for k in kinds if k != 'real'] + [('real', k) for k in kinds if k != 'real']:
        rows.append({'trained on': source, 'tested on': target,
                     **{name: f'{cross(kinds[source], kinds[target], part):.3f}' for name, part in FEATURES.items()}})
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / 'simulation_giveaway.csv', rows)
    rows = [{'kind': name, **statistics(c, real)} for name, c in kinds.items()]
    for change in args.vary:
        pairs = (pair.split('=') for pair in change.split())
        values = {name: tuple(map(float, v.split(','))) if ',' in v else float(v) for name, v in pairs}
        c = simulated(files[::2], replace(config, **values), size=min(args.size, 128))
        rows.append({'kind': f'wide, {change}', **statistics(c, real)})
    write(args.out / 'simulation_statistics.csv', rows)


if __name__ == '__main__':
    main()
