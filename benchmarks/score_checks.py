"""Does the score do what a score must? Checks on sets in the IEA40K layout, one command for any weights.

    python benchmarks/score_checks.py --data sets/photos --csv sets/photos/test.csv          series: suffixes _N4 .. _P0 .. _P4
    python benchmarks/score_checks.py --data sets/stacks --csv sets/stacks/test.csv          brackets: _F00, _F01 ..
    python benchmarks/score_checks.py ... --score-head head.safetensors --out benchmarks/results/score_checks.csv

Of series it prints how often the score falls from +-1 to +-4 EV (at every step, and from end to end), how often under and over are told
right (by `result.direction`; by the sign of the mean residual; by which of the two shares is larger), and how often the picture as it was
scores best. Of both kinds: Kendall's tau-b within each scene between the score and minus the picture's true distance, the mean |label|; and PLCC and SRCC
with the CSV's score. Shares have 95 % Wilson intervals; the mean of tau has a bootstrap's over scenes.

    python benchmarks/score_checks.py --thresholds --data sets/photos --csv sets/photos/val.csv --scenes 46      how THRESHOLD was chosen

    python benchmarks/score_checks.py --balances --data sets/photos --csv sets/photos/val.csv      how BALANCE was chosen

The first prints for several thresholds how well "over" finds the pixels in which a channel clips (252 and more; below 248 in the reference), and
"under" those that are crushed (all channels 12 and less; above 30 in the reference), at -3 .. +3 EV: the mean of recall and specificity. The second
prints how often under and over are told right when a picture counts as under above several mean residuals.
"""
import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, kendalltau
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import output_file
from datasets.iea40k import IEA40K, exposure_of, read_array, read_label
from datasets.images import read_image
from exposure.predictor import DEFAULT_CHECKPOINT, Predictor
from metrics import plcc, srcc
from metrics.report import csv_text
from models.checkpoint import atomic_write
from models.p_ieanet import IDEALS, named

CHUNK = 64  # pictures in memory at once


def judge(predictor, dataset):
    """A dict a picture of the set: img_id, ref_id, ev, given (the CSV's score), distance (mean |label|), and the map's numbers."""
    pictures = [dataset.picture_path(row) for row in dataset.rows]
    rows = []
    with ThreadPoolExecutor(2) as pool:
        for start in tqdm(range(0, len(pictures), CHUNK), unit='chunk', disable=None):
            results = predictor.predict_batch(list(pool.map(read_image, pictures[start:start + CHUNK])))
            for row, result in zip(dataset.rows[start:start + CHUNK], results):
                label = read_label(dataset.label_path(row), None).numpy()[0]
                validity = dataset.validity_path(row)
                if validity.exists():
                    label = label[read_array(validity, (np.uint8, np.bool_), 'uint8') > 0]
                rows.append({'img_id': row['img_id'], 'ref_id': row['ref_id'], 'ev': exposure_of(row['img_id']), 'given': row['score'],
                             'distance': float(np.abs(label).mean()), 'score': result.score, 'learned': result.learned_score,
                             'mean_residual': result.mean_residual, 'direction': result.direction, 'under': result.share_under, 'over': result.share_over})
    return rows


def agreement(predictor, dataset, thresholds=(0.03, 0.05, 0.07, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)):
    """Rows (threshold, over with clipped, under with crushed, their mean, share of the area off at 0 EV) of a set with series."""
    counts = np.zeros((len(thresholds), 2, 4))  # hits, pixels to hit, right refusals, pixels to refuse; of over and of under
    off = np.zeros((len(thresholds), 2))
    for row in tqdm(dataset.rows, unit='picture', disable=None):
        ev = exposure_of(row['img_id'])
        if ev is None or abs(ev) > 3:
            continue
        picture = read_image(dataset.picture_path(row))
        reference = read_image(dataset.root / 'label' / 'global_best' / row['ref_id'])
        residual, shown, ideal = predictor.predict(picture).residual, np.asarray(picture), np.asarray(reference)
        clipped = (shown.max(2) >= 252) & (ideal.max(2) < 248)
        crushed = (shown.max(2) <= 12) & (ideal.max(2) > 30)
        for i, threshold in enumerate(thresholds):
            for k, (found, truth) in enumerate(((residual < -threshold, clipped), (residual > threshold, crushed))):
                counts[i, k] += (found & truth).sum(), truth.sum(), (~found & ~truth).sum(), (~truth).sum()
            if ev == 0:
                off[i] += (np.abs(residual) > threshold).sum(), residual.size
    balanced = (counts[..., 0] / counts[..., 1] + counts[..., 2] / counts[..., 3]) / 2
    return [(t, *b, b.mean(), o[0] / o[1]) for t, b, o in zip(thresholds, balanced, off)]


def balances(rows, cuts=(-0.02, -0.01, 0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05)):
    """Rows (cut, share told right at -1, +1, +-1, +-2 EV) of :func:`judge`'s: "under" above this mean residual, else "over"."""
    def right(cut, *evs):
        return float(np.mean([(row['mean_residual'] > cut) == (row['ev'] < 0) for row in rows if row['ev'] in evs]))
    return [(cut, right(cut, -1), right(cut, 1), right(cut, -1, 1), right(cut, -2, 2)) for cut in cuts]


def share(hits):
    """(figure, low, high, count) of a list of booleans, with Wilson's 95 % interval."""
    hits = [bool(h) for h in hits]
    interval = binomtest(sum(hits), len(hits)).proportion_ci(0.95, 'wilson')
    return sum(hits) / len(hits), interval.low, interval.high, len(hits)


def average(values, resamples=2000, seed=0):
    """(mean, low, high, count) with the bootstrap's 95 % interval."""
    values = np.asarray(values, np.float64)
    chosen = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    return (values.mean(), *np.quantile(values[chosen].mean(1), (0.025, 0.975)), len(values))


def scenes_of(rows):
    scenes = {}
    for row in rows:
        scenes.setdefault(row['ref_id'], []).append(row)
    return list(scenes.values())


def series_figures(rows, key='score'):
    """Checks of exposure series: {what: (figure, low, high, count)}; none where the set has no series.

    Args:
        rows: of :func:`judge`; a series is a scene with all of -1 .. -4, 0 and +1 .. +4 EV, or with a part of them: then what needs the
            missing ones leaves it out.
        key: the score to check.
    """
    series = [{row['ev']: row for row in scene} for scene in scenes_of(rows) if scene[0]['ev'] is not None]
    figures = {}

    def add(what, hits):
        if hits:
            figures[what] = share(hits)
    steps, ends, both = {}, {}, []
    for side in (-1, 1):
        falls = [[s[side * n][key] for n in (1, 2, 3, 4)] for s in series if all(side * n in s for n in (1, 2, 3, 4))]
        steps[side] = [all(a > b for a, b in zip(f, f[1:])) for f in falls]
        ends[side] = [f[0] > f[-1] for f in falls]
    if len(steps[-1]) == len(steps[1]):
        both = [a and b for a, b in zip(steps[-1], steps[1])]
    add('falls at every step, -1 to -4 and +1 to +4 EV', both)
    for side in (-1, 1):
        add(f'falls at every step, {side:+d} to {4 * side:+d} EV', steps[side])
        add(f'is lower at {4 * side:+d} than at {side:+d} EV', ends[side])
    add('is best at 0 EV', [max(s, key=lambda ev: s[ev][key]) == 0 for s in series if 0 in s and len(s) > 1])
    if key == 'score':
        for ev in (1, 2, 3, 4):
            pictures = [(side, s[side * ev]) for s in series for side in (-1, 1) if side * ev in s]
            add(f'direction, +-{ev} EV', [row['direction'] == ('under' if side < 0 else 'over') for side, row in pictures])
            add(f'direction by sign of the mean, +-{ev} EV', [row['mean_residual'] * side < 0 for side, row in pictures])
            add(f'direction by the larger share, +-{ev} EV', [(row['over'] - row['under']) * side > 0 for side, row in pictures])
    return figures


def scene_figures(rows, key='score'):
    """Checks of any set: {what: (figure, low, high, count)}; tau, and the correlations with the CSV's score (without interval)."""
    scenes = [scene for scene in scenes_of(rows) if len(scene) > 1]
    taus = [kendalltau([row[key] for row in scene], [-row['distance'] for row in scene]).statistic for scene in scenes]
    taus = [tau for tau in taus if np.isfinite(tau)]
    figures = {"Kendall's tau-b with -distance, mean over scenes": average(taus)} if taus else {}
    given, values = [row['given'] for row in rows], [row[key] for row in rows]
    figures["PLCC with the CSV's score"] = (plcc(values, given), None, None, len(rows))
    figures["SRCC with the CSV's score"] = (srcc(values, given), None, None, len(rows))
    return figures


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--data', type=Path, action='append', required=True, help='folder in the IEA40K layout')
    p.add_argument('--csv', type=Path, action='append', required=True, help='its split; as often as --data')
    p.add_argument('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT)
    p.add_argument('--score-head', type=Path, help='also check the learned score of this file')
    p.add_argument('--ideal', choices=IDEALS, default='auto', help='what the weights take for ideal, see make_heatmap.py')
    p.add_argument('--scenes', type=int, default=0, metavar='N', help='only N scenes of each set, evenly chosen; 0: all')
    p.add_argument('--thresholds', action='store_true', help='only the agreement of over and under with clipped and crushed pixels')
    p.add_argument('--balances', action='store_true', help='only how often the direction is right, above several mean residuals')
    p.add_argument('--device', default='auto')
    p.add_argument('--out', type=output_file, help='write the figures here, CSV')
    args = p.parse_args(argv)
    if len(args.data) != len(args.csv):
        p.error(f'--data is given {len(args.data)} times and --csv {len(args.csv)} times')
    table, weights = [], named(args.checkpoint.name, args.ideal)

    def keep(rows, names, form):
        """Print rows of figures of the set at hand, and put them into the table."""
        for figures in rows:
            print(form.format(*figures), flush=True)
            table.append({'set': f'{data.name}/{split.stem}', 'scenes': len(scenes_of(dataset.rows)), 'weights': weights,
                          **{name: f'{figure:.4f}' for name, figure in zip(names, figures)}})

    try:
        predictor = Predictor(args.checkpoint, args.device, score_head=args.score_head, ideal=args.ideal)
        for data, split in zip(args.data, args.csv):
            dataset = IEA40K(data, split, label_shape=None)
            if args.scenes:
                names = sorted({row['ref_id'] for row in dataset.rows})
                kept = set(names[::max(1, len(names) // args.scenes)][:args.scenes])
                dataset.rows = [row for row in dataset.rows if row['ref_id'] in kept]
            if args.thresholds:
                print(f'{data.name}/{split.stem}, {weights}\nthreshold  over/clipped  under/crushed   mean  area off at 0 EV')
                keep(agreement(predictor, dataset), ('threshold', 'over_clipped', 'under_crushed', 'mean', 'off_at_0_ev'),
                     '{:9.2f}  {:12.3f}  {:13.3f}  {:5.3f}  {:16.3f}')
                continue
            if args.balances:  # further off, every cut is right
                dataset.rows = [row for row in dataset.rows if exposure_of(row['img_id']) in (-2, -1, 1, 2)]
                if {exposure_of(row['img_id']) for row in dataset.rows} != {-2, -1, 1, 2}:
                    raise ValueError(f'{split}: --balances needs series, with pictures at -2, -1, +1 and +2 EV')
                print(f'{data.name}/{split.stem}, {weights}\nbalance  -1 EV  +1 EV  +-1 EV  +-2 EV')
                keep(balances(judge(predictor, dataset)), ('balance', 'at_-1_ev', 'at_1_ev', 'at_1_ev_both', 'at_2_ev_both'),
                     '{:7.3f}  {:5.3f}  {:5.3f}   {:5.3f}   {:5.3f}')
                continue
            rows = judge(predictor, dataset)
            for key in ('score', 'learned') if args.score_head else ('score',):
                figures = {**series_figures(rows, key), **scene_figures(rows, key)}
                print(f'\n{data.name}/{split.stem}, {key}: {len(rows)} pictures of {len(scenes_of(rows))} scenes, {weights}')
                for what, (figure, low, high, count) in figures.items():
                    interval = '' if low is None else f'({low:.3f} to {high:.3f})'
                    print(f'  {what:52} {figure:6.3f}  {interval:18} of {count}', flush=True)
                    table.append({'set': f'{data.name}/{split.stem}', 'weights': weights, 'score': key, 'check': what,
                                  'figure': f'{figure:.4f}', 'low': '' if low is None else f'{low:.4f}',
                                  'high': '' if high is None else f'{high:.4f}', 'count': count})
    except (ValueError, OSError) as error:
        p.error(' '.join(str(error).split()))
    if args.out and table:
        atomic_write(args.out, csv_text(table).encode())


if __name__ == '__main__':
    main()
