"""Draw docs/branches.png: what the two branches of the network are given and what they make of it, on the sample pictures.

    python docs/make_branch_figure.py
    python docs/make_branch_figure.py --checkpoint mine.safetensors --out mine.png

Above (the paper's Fig. 3): two exposures of one scene change their low bands; the exposure goes with the low band, and the high bands keep
the structure. Below (its Fig. 5): features of the structure branch near and far, attention of the lightness branch, the map that comes out.
Every column has one colour scale for all pictures; of maps with many channels their first principal component is shown.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets.images import read_image, resize_rgb, to_tensor  # noqa: E402
from datasets.simulation import CameraCurve, expose, quantise  # noqa: E402
from models import CheckpointError, load_model  # noqa: E402
from models.grey import luma  # noqa: E402

PICTURES = ('underexposed', 'overexposed', 'under_and_over', 'night')
SIDE = 256
# of the structure branch: key in the features (a level follows), title
FEATURES = (('short', 'short range'), ('long', 'long range'), ('grad_short', 'short range,\ngradients'),
            ('grad_long', 'long range,\ngradients'))


def load(name):
    return to_tensor(resize_rgb(read_image(ROOT / 'img_to_pred' / f'{name}.jpg'), SIDE))[None]


def exposed(picture, stops):
    """The picture as a plain camera would have taken it with this many stops more light."""
    curve = CameraCurve(*(torch.full((1, 1, 1, 1), v) for v in (2.2, 3.0, 2.0, 0.5, 0.0)))
    return quantise(expose(picture, stops, curve, torch.Generator().manual_seed(0), headroom=1.0))


def show(axes, image, title='', below='', **how):
    if isinstance(image, torch.Tensor):
        image = image[0].permute(1, 2, 0).clamp(0, 1).numpy() if image.shape[1] == 3 else image[0, 0].numpy()
    drawn = axes.imshow(image, interpolation='nearest', extent=(0, 1, 0, 1), **how)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(below, fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


def draw_swap(figure, model):
    """Paper's Fig. 3."""
    reference = load('well_exposed')
    dark, bright = exposed(reference, -3.0), exposed(reference, 2.0)
    (low_dark, *high_dark), (low_bright, *high_bright) = model.split(dark), model.split(bright)
    pictures = ((dark, 'dark exposure'), (bright, 'bright exposure'),
                (model.merge(low_bright, *high_dark, size=(SIDE, SIDE)), 'low band of the bright,\nhigh bands of the dark'),
                (model.merge(low_dark, *high_bright, size=(SIDE, SIDE)), 'low band of the dark,\nhigh bands of the bright'))
    axes = figure.subplots(1, 6)
    for a, (picture, title) in zip(axes, pictures):
        show(a, picture, title, f'mean grey {float(luma(picture).mean()):.2f}')
    for a, high, title in zip(axes[4:], (high_dark, high_bright), ('high bands of the dark', 'high bands of the bright')):
        show(a, torch.stack(high).square().sum((0, 2)).sqrt()[:, None], title, 'lh, hl, hh together', cmap='magma', vmin=0, vmax=0.5)


def first_component(maps):
    """What tells the places of these pictures apart most: the first principal component over the channels, one for all pictures."""
    points = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])
    mean = points.mean(0)
    _, _, directions = torch.linalg.svd(points - mean, full_matrices=False)
    return [((m.permute(0, 2, 3, 1) - mean) @ directions[0])[0].numpy() for m in maps]


def draw_maps(figure, model):
    """Paper's Fig. 5; returns the channel attention of every picture."""
    pictures = [load(name) for name in PICTURES]
    residuals, features = zip(*(model(x, return_features=True) for x in pictures))
    axes = figure.subplots(len(PICTURES) + 1, len(FEATURES) + 3, height_ratios=[1] * len(PICTURES) + [0.06]).T
    columns = [('picture', pictures, {}, {})]
    level = max(1, model.config.levels - 1)
    for key, title in FEATURES:
        maps = first_component([f[f'{key}_{level}'] for f in features])
        if np.median(np.stack(maps)) > 0:  # a component has no sign of its own
            maps = [-m for m in maps]
        limit = float(np.quantile(np.abs(np.stack(maps)), 0.995))
        columns.append((title, maps, dict(cmap='PuOr', vmin=-limit, vmax=limit), {-limit: '-', 0: '0', limit: '+'}))
    attention = [f['pixel_attention'] for f in features]
    columns.append(('pixel attention', attention, dict(cmap='viridis', vmin=0, vmax=1), {0: '0', 1: '1'}))
    maps = [-r for r in residuals]
    columns.append(('exposure map', maps, dict(cmap='bwr', vmin=-0.5, vmax=0.5), {-0.5: 'under', 0: 'ideal', 0.5: 'over'}))
    for column, (title, maps, how, ticks) in zip(axes, columns):
        drawn = [show(a, m, **how) for a, m in zip(column, maps)][0]
        column[0].set_title(title, fontsize=10)
        if ticks:
            bar = figure.colorbar(drawn, cax=column[-1], orientation='horizontal', ticks=list(ticks))
            bar.ax.set_xticklabels(ticks.values(), fontsize=9)
        else:
            column[-1].axis('off')
    for a, name in zip(axes[0], PICTURES):
        a.set_ylabel(name.replace('_', ' '), fontsize=10)
    return [f['channel_attention'][0, :, 0, 0].numpy() for f in features]


def draw_channels(figure, weights):
    """Channel attention: a picture a row, a channel a column; channels in the order of how much they tell the pictures apart."""
    weights = np.stack(weights)
    weights = weights[:, np.argsort(-np.ptp(weights, 0))]
    axes = figure.subplots()
    drawn = axes.imshow(weights, aspect='auto', interpolation='nearest', cmap='viridis', vmin=0, vmax=1)
    axes.set_yticks(range(len(PICTURES)), [name.replace('_', ' ') for name in PICTURES], fontsize=9)
    axes.set_xticks([])
    axes.set_title(f'channel attention, {weights.shape[1]} channels; those that tell these pictures apart first', fontsize=10)
    figure.colorbar(drawn, ax=axes, shrink=0.9, aspect=8, pad=0.01, ticks=(0, 1))


@torch.no_grad()
def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--checkpoint', type=Path, default=ROOT / 'checkpoints' / 'p_ieanet.safetensors', metavar='F')
    p.add_argument('--out', type=Path, default=ROOT / 'docs' / 'branches.png', metavar='F')
    args = p.parse_args(argv)
    try:
        model = load_model(args.checkpoint)
    except CheckpointError as e:
        p.error(str(e))
    if not getattr(getattr(model, 'config', None), 'use_structure', False) or not model.config.use_lightness:
        p.error(f'{args.checkpoint}: has not both branches')
    figure = Figure(figsize=(12, 11.5), layout='constrained')
    above, middle, below = figure.subfigures(3, 1, height_ratios=(2.7, 8.3, 1.3))
    draw_swap(above, model)
    draw_channels(below, draw_maps(middle, model))
    figure.savefig(args.out, dpi=72)


if __name__ == '__main__':
    main()
