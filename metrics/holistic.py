"""Figures of whole pictures: correlation of scores, agreement of under / fine / over, order within a stack.

PLCC is the paper's LRCC. Undefined figures (fewer than two values, a constant score) are NaN, never 0.
"""
import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit
from scipy.stats import rankdata

THRESHOLD = 0.1  # of ACC, on the mean residual: 25 of 255 grey levels


def _pairs(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f'values of shape {x.shape} and {y.shape}, accepted: two equally long lists')
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError('a value is NaN or infinite, accepted: finite values')
    return x, y


def holistic_score(mean_abs_residual):
    """The paper's score without fine-tuning (5.2): 1 - mean|residual|, on 0..10."""
    return 10 * (1 - np.asarray(mean_abs_residual, np.float64))


def plcc(pred, score, fit=None):
    """Pearson's linear correlation; ``fit`` 'logistic4' or 'logistic5' bends ``pred`` to ``score`` first."""
    pred, score = _pairs(pred, score)
    if fit is not None:
        pred = fit_logistic(pred, score, fit)
    if len(pred) < 2 or np.ptp(pred) == 0 or np.ptp(score) == 0:
        return float('nan')
    x, y = pred - pred.mean(), score - score.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def srcc(pred, score):
    """Spearman's rank correlation, ties sharing their mean rank."""
    pred, score = _pairs(pred, score)
    return plcc(rankdata(pred), rankdata(score))


def fit_logistic(pred, score, kind='logistic4'):
    """``pred`` after the least-squares logistic that brings it nearest to ``score``.

    logistic4: (b1 - b2) / (1 + exp(-(x - b3) / |b4|)) + b2 (VQEG 2000), monotone;
    logistic5: b1 (1/2 - 1/(1 + exp(b2 (x - b3)))) + b4 x + b5 (Sheikh et al. 2006, eq. 10), which need not
    be. A constant ``pred`` or ``score``, or fewer values than parameters, comes back as it is.
    """
    pred, score = _pairs(pred, score)
    if kind not in ('logistic4', 'logistic5'):
        raise ValueError(f"fit is {kind!r}, accepted: 'logistic4', 'logistic5'")
    if len(pred) < int(kind[-1]) or np.ptp(pred) == 0 or np.ptp(score) == 0:
        return pred
    x, y = (pred - pred.mean()) / pred.std(), (score - score.mean()) / score.std()
    rising = 1.0 if x @ y >= 0 else -1.0
    if kind == 'logistic4':
        def curve(b):
            return (b[0] - b[1]) * expit((x - b[2]) / max(abs(b[3]), 1e-6)) + b[1]
        start = [rising * np.abs(y).max(), -rising * np.abs(y).max(), 0.0, 1.0]
    else:
        def curve(b):
            return b[0] * (0.5 - expit(-b[1] * (x - b[2]))) + b[3] * x + b[4]
        start = [rising * np.ptp(y), 1.0, 0.0, 0.0, 0.0]
    best = least_squares(lambda b: curve(b) - y, start, method='lm', max_nfev=2000)
    return curve(best.x) * score.std() + score.mean()


def verdict(mean_residual, threshold=THRESHOLD):
    """+1 under, 0 fine, -1 over: where a mean residual lies against +-threshold (on the line is fine)."""
    mean_residual = np.asarray(mean_residual, np.float64)
    return (mean_residual > threshold).astype(int) - (mean_residual < -threshold).astype(int)


def acc(pred_mean, target_mean, threshold=THRESHOLD):
    """Share of pictures whose map and label agree on under / fine / over, both judged by :func:`verdict`.

    The paper's Table 3 has an ACC too and does not define it: ours is not comparable with it.
    """
    pred_mean, target_mean = _pairs(pred_mean, target_mean)
    if not len(pred_mean):
        return float('nan')
    return float(np.mean(verdict(pred_mean, threshold) == verdict(target_mean, threshold)))


def ordering(mean_residual):
    """Neighbours in right order within one stack: (how many, of how many).

    Args:
        mean_residual: predicted mean residuals of a scene's frames, dark to bright. With every step the
            picture gets brighter, so the residual must fall; standing still counts as wrong (the zero map
            gets 0).
    """
    steps = np.diff(np.asarray(mean_residual, np.float64))
    return int((steps < 0).sum()), len(steps)
