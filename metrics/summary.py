"""From per-picture numbers to a set's figures: means, breakdowns, bootstrap intervals, paired significance.

Pictures of one scene are not independent, so everything about certainty works on scenes (one ref_id = one
scene). The figures that carry an interval are functions of sums over scenes: the point is taken from the
plain sums, the interval from resampled ones.
"""
import re
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from datasets.iea40k import exposure_of

from .holistic import THRESHOLD, holistic_score, ordering, plcc, srcc, verdict
from .pixel import ZONES, psnr_from_mse

MEANS = ('mae', 'mse', 'bias', 'level', 'detail', 'ssim', 'ssim_shifted')
SUMS = ('n',) + MEANS + ('agree', 'steps', 'falls', 'x', 'y', 'xx', 'yy', 'xy')
FLIPS = 9999  # sign flips of the paired test, so the smallest p is 1e-4
FLIPS_AT_ONCE, PIECES = 500, 20  # of 10,000 scenes: 40 MB of flips, 4 MB of resamples


def order_of(img_id):
    """Place from dark to bright in a scene: the number of _F00, _F01 .., the EV of _N4 .. _P4, or None."""
    frame = re.search(r'_F(\d+)$', Path(img_id).stem)
    return int(frame.group(1)) if frame else exposure_of(img_id)


def score_is_derived(measured, tolerance=0.02):
    """Whether the CSV's score is 10 (1 - mean|label|) in every row, to the label's rounding: over all pixels or over the valid ones.

    Then a correlation with it compares a map with its label once more, and says nothing about people.
    """
    derived = (holistic_score(measured.of_truth(key)) for key in ('mean_abs', 'mean_abs_unmasked'))
    return any(bool(np.all(np.abs(measured.scores - d) <= tolerance)) for d in derived)


def summarise(measured, methods, resamples=1000, seed=0, threshold=THRESHOLD):
    """The rows of one set.

    Args:
        measured: all rows of the set, sorted (:func:`metrics.evaluate.combine`).
        methods: the names, first the one that the others are compared with.
        resamples: of the bootstrap; 0 for no intervals and no significance.
        threshold: of ACC.

    Returns:
        (about, rows): a dict about the set, and a dict per method with pictures, failed, scenes; mae, mse,
        bias, level, detail, ssim, ssim_shifted, psnr, psnr_median, acc, ordering, plcc, plcc_logistic4,
        plcc_logistic5, srcc; ``<figure>_lo`` and ``_hi``, 95 %; ev: {EV: {pictures, mae, bias, ssim}}; zones:
        {zone: mae}; and against the first row delta_mae with _lo, _hi and p_mae, p_ssim, p_psnr (adjusted by
        Holm over the set's rows). NaN where a figure means nothing. A method's figures are over the pictures
        that it did not fail on, ``failed`` says on how many it did.
    """
    scenes, scene = np.unique(measured.ref_ids, return_inverse=True)
    weights = resampled_scenes(len(scenes), resamples, seed) if resamples and len(scenes) > 1 else None
    order = [order_of(i) for i in measured.img_ids]
    circular = score_is_derived(measured)
    pixels = np.array([measured.of_truth(f'pixels_zone{z}').sum() for z in range(ZONES)])
    about = {'name': measured.name, 'pictures': len(measured.img_ids), 'scenes': len(scenes),
             'circular': circular, 'mean_residual': float(measured.of_truth('mean').mean()),
             'zone_pixels': (pixels / pixels.sum()).tolist(),
             'evs': sorted({e for e in map(exposure_of, measured.img_ids) if e is not None})}
    rows, sums = [], {}
    for name in methods:
        good = np.isfinite(measured.of_map(name, 'mean_abs'))
        row = {'set': measured.name, 'method': name, 'pictures': int(good.sum()),
               'failed': int((~good).sum()), 'scenes': len(np.unique(scene[good]))}
        sums[name] = _scene_sums(measured, name, good, scene, len(scenes), order, threshold)
        row.update({k: float(v) for k, v in _figures(sums[name].sum(0)).items()})
        row.update(_whole_set(measured, name, good))
        if weights is not None:
            resampled = _figures(_weighted(weights, sums[name]))
            if not circular:
                resampled['srcc'] = _resampled_srcc(measured, name, good, scene, weights)
            for key, values in resampled.items():
                row[f'{key}_lo'], row[f'{key}_hi'] = _interval(values)
        row['ev'], row['zones'] = _by_ev(measured, name, good), _by_zone(measured, name, good)
        rows.append(row)
    if weights is not None:
        _compare(measured, rows, scene, len(scenes), weights, seed)
    return about, rows


def _scene_sums(measured, name, good, scene, scenes, order, threshold):
    """(scenes, len(SUMS)) sums over each scene's pictures that the method did not fail on."""
    columns = {k: measured.of_map(name, k) for k in MEANS}
    mean = measured.of_map(name, 'mean')
    x, y = holistic_score(measured.of_map(name, 'mean_abs')), measured.scores
    x, y = x - np.mean(x[good]) if good.any() else x, y - np.mean(y)
    truth = measured.of_truth('mean')
    agree = np.where(np.isfinite(truth), verdict(mean, threshold) == verdict(truth, threshold), np.nan)
    columns.update(n=np.ones(len(scene)), agree=agree, x=x, y=y, xx=x * x, yy=y * y, xy=x * y)
    sums = np.zeros((scenes, len(SUMS)))
    for key, values in columns.items():
        sums[:, SUMS.index(key)] = np.bincount(scene[good], np.asarray(values, float)[good], minlength=scenes)
    for s in range(scenes):
        mine = [i for i in np.flatnonzero((scene == s) & good) if order[i] is not None]
        exposures = sorted({order[i] for i in mine})  # those that several pictures share stand for themselves once
        falls, steps = ordering([np.mean([mean[i] for i in mine if order[i] == e]) for e in exposures])
        sums[s, SUMS.index('falls')], sums[s, SUMS.index('steps')] = falls, steps
    return sums


def _figures(sums):
    """Figures from sums (..., len(SUMS)); each is an array of shape (...)."""
    s = dict(zip(SUMS, np.moveaxis(np.asarray(sums), -1, 0)))
    with np.errstate(invalid='ignore', divide='ignore'):
        figures = {k: s[k] / s['n'] for k in MEANS}
        figures['psnr'] = psnr_from_mse(figures['mse'])
        figures['acc'] = s['agree'] / s['n']
        figures['ordering'] = s['falls'] / s['steps']
        xx, yy, xy = (s[a + b] - s[a] * s[b] / s['n'] for a, b in ('xx', 'yy', 'xy'))
        defined = (xx > 1e-12) & (yy > 1e-12)
        figures['plcc'] = np.where(defined, xy / np.sqrt(np.maximum(xx * yy, 1e-300)), np.nan)
    return figures


def _whole_set(measured, name, good):
    """Figures that are no function of sums."""
    nothing = dict.fromkeys(('psnr_median', 'plcc', 'plcc_logistic4', 'plcc_logistic5', 'srcc'), float('nan'))
    if not good.any():
        return nothing
    nothing['psnr_median'] = float(np.median(psnr_from_mse(measured.of_map(name, 'mse')[good])))
    pred, score = holistic_score(measured.of_map(name, 'mean_abs')[good]), measured.scores[good]
    if not np.isfinite(score).all():
        return nothing
    return {**nothing, 'plcc': plcc(pred, score), 'plcc_logistic4': plcc(pred, score, 'logistic4'),
            'plcc_logistic5': plcc(pred, score, 'logistic5'), 'srcc': srcc(pred, score)}


def _resampled_srcc(measured, name, good, scene, weights):
    pred, score = holistic_score(measured.of_map(name, 'mean_abs')), measured.scores
    if not np.isfinite(score).all():
        return np.full(len(weights), np.nan)
    values = []
    for w in weights:
        times = np.where(good, w[scene], 0).astype(int)
        values.append(plcc(rankdata(np.repeat(pred, times)), rankdata(np.repeat(score, times))))
    return np.array(values)


def _interval(values):
    values = values[np.isfinite(values)]
    return tuple(np.quantile(values, (0.025, 0.975)).tolist()) if len(values) else (float('nan'),) * 2


def _by_ev(measured, name, good):
    evs, result = [exposure_of(i) for i in measured.img_ids], {}
    for ev in sorted(set(evs) - {None}):
        here = np.array([e == ev for e in evs]) & good
        if here.any():
            means = {k: float(measured.of_map(name, k)[here].mean()) for k in ('mae', 'bias', 'ssim')}
            result[ev] = {'pictures': int(here.sum()), **means}
    return result


def _by_zone(measured, name, good):
    """MAE over all pixels of a zone (of the picture's own grey), for the zones that occur."""
    errors = [measured.of_map(name, f'error_zone{z}')[good].sum() for z in range(ZONES)]
    pixels = [measured.of_truth(f'pixels_zone{z}')[good].sum() for z in range(ZONES)]
    return {z: float(e / n) for z, (e, n) in enumerate(zip(errors, pixels)) if n > 0}


def _compare(measured, rows, scene, scenes, weights, seed):
    """Add to each row how it differs from the first, over the pictures that both did.

    That is the bootstrap interval of the MAE's difference, and a sign-flip test over scenes.
    """
    first, others = rows[0]['method'], rows[1:]
    gaps = {}
    for row in others:
        both = np.isfinite(measured.of_map(first, 'mae')) & np.isfinite(measured.of_map(row['method'], 'mae'))
        if not both.any():
            continue
        count = np.bincount(scene[both], minlength=scenes).astype(float)
        for key in ('mae', 'ssim', 'mse'):
            gap = (measured.of_map(row['method'], key) - measured.of_map(first, key))[both]
            gaps['psnr' if key == 'mse' else key, row['method']] = mine = np.bincount(scene[both], gap, minlength=scenes)
            if key == 'mae':
                row['delta_mae'] = float(mine.sum() / count.sum())
                resampled, counts = _weighted(weights, np.stack((mine, count), 1)).T
                with np.errstate(invalid='ignore'):
                    row['delta_mae_lo'], row['delta_mae_hi'] = _interval(resampled / counts)
    p = dict(zip(gaps, sign_flip_p(list(gaps.values()), seed + 1))) if gaps else {}
    for key in ('mae', 'ssim', 'psnr'):
        mine = [r for r in others if (key, r['method']) in p]
        for row, value in zip(mine, holm([p[key, r['method']] for r in mine])):
            row[f'p_{key}'] = value


def resampled_scenes(scenes, resamples, seed):
    """(resamples, scenes) int16: how often each scene is drawn. In pieces: the counts come as int64, four times their size."""
    rng, share = np.random.default_rng(seed), np.full(scenes, 1 / scenes)
    weights = np.empty((resamples, scenes), np.int16)
    for part in np.array_split(weights, PIECES):  # a view: its rows are filled in place
        part[:] = rng.multinomial(scenes, share, size=len(part))
    return weights


def _weighted(weights, sums):
    """(resamples, k) sums over resampled scenes of (scenes, k): a product, whose integers become floats a piece at a time."""
    return np.concatenate([part.astype(float) @ sums for part in np.array_split(weights, PIECES)])


def sign_flip_p(gaps, seed):
    """Two-sided p of each of ``gaps``, (scenes,) arrays, having such a sum when each scene's sign could as well be the other.

    The smallest p is 1 / (FLIPS + 1). The same flips serve all of them, and are never held all at once.
    """
    gaps = np.stack(gaps, 1)
    observed, rng, as_large = np.abs(gaps.sum(0)), np.random.default_rng(seed), 0
    for flips in range(0, FLIPS, FLIPS_AT_ONCE):
        signs = rng.integers(0, 2, (min(FLIPS_AT_ONCE, FLIPS - flips), len(gaps)), dtype=np.int8) * 2.0 - 1
        as_large += (np.abs(signs @ gaps) >= observed * (1 - 1e-9)).sum(0)
    return ((1 + as_large) / (1 + FLIPS)).tolist()


def holm(p):
    """Several p values after Holm's step-down adjustment (Scand. J. Statist. 6, 1979), in the order given."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
