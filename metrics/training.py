"""What a training run shows of itself: validation figures, a panel of pictures, log.csv and its curves."""
import csv

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Subset

from datasets.sampler import leave_signals_to_main

from .pixel import bias, mae, mse, psnr_from_mse, ssim


def gather(rows, world):
    """Per-picture rows of all processes: each has its own share, so nothing is counted twice."""
    if world == 1:
        return rows
    shares = [None] * world
    dist.all_gather_object(shares, rows)
    return [row for share in shares for row in share]


@torch.no_grad()
def validate(model, sets, device, batch_size=16, workers=0, rank=0, world=1):
    """Figures of every validation set, means over pictures.

    Args:
        model: (B, 3, H, W) -> (B, 1, H, W); left in eval mode.
        sets: name -> dataset of dicts with image, residual, mask, img_id.
        rank, world: this process takes every world-th picture; the figures are those of one process.

    Returns:
        name -> dict(mae, ssim, psnr, level).

    Raises:
        ValueError: a picture has no figures, as where no whole window of SSIM is valid; it is named.
    """
    model.eval()
    out = {}
    for name, dataset in sets.items():
        mine = Subset(dataset, range(rank, len(dataset), world))
        rows = []
        for batch in DataLoader(mine, batch_size, num_workers=workers, worker_init_fn=leave_signals_to_main):
            pred = model(batch['image'].to(device)).float().cpu()
            for *maps, img_id in zip(pred[:, 0], batch['residual'][:, 0], batch['mask'][:, 0], batch['img_id']):
                try:
                    rows.append((mae(*maps), ssim(*maps), mse(*maps), abs(bias(*maps)), img_id))
                except ValueError as e:
                    raise ValueError(f'{name}: {img_id}: {e}') from e
        rows = sorted(gather(rows, world), key=lambda r: r[-1])  # one order of summation for any number of processes
        means = np.array([r[:-1] for r in rows]).mean(0).tolist()
        out[name] = dict(mae=means[0], ssim=means[1], psnr=float(psnr_from_mse(means[2])), level=means[3])
    return out


@torch.no_grad()
def panel(model, datasets, device, pictures=6):
    """Validation pictures as one image (3, H, W): input, label, prediction; blue under, white fine, red over, scale +-0.5."""
    def colour(r):
        v = (r[0] / 0.5).clamp(-1, 1)
        return torch.stack((1 - v.clamp_min(0), 1 - v.abs(), 1 + v.clamp_max(0)))
    rows = []
    for dataset in datasets:
        for i in np.linspace(0, len(dataset) - 1, pictures).astype(int):
            s = dataset[int(i)]
            r = model.eval()(s['image'][None].to(device)).float().cpu()[0]
            rows.append(torch.cat((s['image'], colour(s['residual']), colour(r)), 2))
    return torch.cat(rows, 1)


class Log:
    """log.csv, one row an epoch. On resuming, rows of a later step than the one resumed from are dropped.

    Args:
        path: of the file. columns: its header. step: the step that the run starts from. write: ``write(path, bytes)``, atomic.
    """

    def __init__(self, path, columns, step, write):
        self.path, self.columns, self.write, self.rows = path, columns, write, []
        if step and path.exists():
            with open(path, newline='') as f:
                reader = csv.DictReader(f)
                self.rows = [r for r in reader if int(r['step']) <= step]
            self.columns = [*columns, *(c for c in reader.fieldnames or () if c not in columns)]  # of sets that had other names

    def add(self, row):
        self.rows.append({c: f'{row[c]:.6g}' if isinstance(row.get(c), float) else row.get(c, '') for c in self.columns})
        lines = [','.join(self.columns)] + [','.join(str(r.get(c, '')) for c in self.columns) for r in self.rows]
        self.write(self.path, ('\n'.join(lines) + '\n').encode())


def last_row(folder):
    """The last line of a run's log.csv as a dict of text, None before there is one."""
    try:
        with open(folder / 'log.csv', newline='') as f:
            return (list(csv.DictReader(f)) or [None])[-1]
    except FileNotFoundError:
        return None


def draw_curves(rows, path):
    """A log's training loss and validation MAE over the steps, as a picture."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    steps = [int(r['step']) for r in rows]
    left.plot(steps, [float(r['loss']) for r in rows])
    left.set(xlabel='step', ylabel='training loss', yscale='log')
    for name in dict.fromkeys(c for r in rows for c in r if c.endswith('_mae')):  # a resumed run may have other sets
        points = [(s, float(r[name])) for s, r in zip(steps, rows) if r.get(name)]
        if points:
            right.plot(*zip(*points), marker='.', label=name[:-4])
            right.legend()
    right.set(xlabel='step', ylabel='validation MAE')
    figure.savefig(path, dpi=100)
