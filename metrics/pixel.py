"""Pixel-level errors of residual maps: MAE, SSIM, PSNR (the paper's Tables 1 and 7), level and detail.

Every function takes arrays or tensors of shape (H, W), (B, H, W) or (B, 1, H, W), residuals on [-1, 1], and
an optional mask of the same shape (true = counts). Sums are in float64 on the CPU, one picture at a time, so
a figure depends neither on the batch nor on the device nor on the number of threads. (H, W) gives a float, a
batch gives a float64 array of shape (B,).
None of this is differentiable: to train with SSIM take pytorch_msssim, whose values these are.
"""
import cv2
import numpy as np

WINDOW, SIGMA = 11, 1.5        # SSIM's Gaussian window; only windows wholly inside the map count
C1, C2 = 0.01 ** 2, 0.03 ** 2  # SSIM's constants for data_range 1
MAX_PSNR = 100.0               # dB, what a faultless map gets
ZONES = 11                     # Adams' zones 0..X: the picture's grey in tenths, rounded; 0 black, X white

_GAUSSIAN = np.exp(-(np.arange(WINDOW) - WINDOW // 2) ** 2 / (2 * SIGMA ** 2))
_GAUSSIAN /= _GAUSSIAN.sum()


def as_array(x, dtype=np.float64):
    """A tensor on any device, or anything numpy takes, as an array."""
    if hasattr(x, 'detach'):
        x = x.detach().cpu()
        x = x.double().numpy() if x.is_floating_point() else x.numpy()
    return np.asarray(x, dtype)


def _pictures(pred, target, mask):
    """Checked inputs as three (B, H, W) arrays, and whether it was a single map."""
    pred, target = as_array(pred), as_array(target)
    mask = np.ones(target.shape, bool) if mask is None else as_array(mask, bool)
    if not pred.shape == target.shape == mask.shape:
        raise ValueError(f'maps {pred.shape}, {target.shape} and mask {mask.shape}, accepted: equal shapes')
    if pred.ndim not in (2, 3, 4) or pred.ndim == 4 and pred.shape[1] != 1:
        raise ValueError(f'maps of shape {pred.shape}, accepted: (H, W), (B, H, W), (B, 1, H, W)')
    if not (np.isfinite(pred).all() and np.isfinite(target).all()):
        raise ValueError('a map holds NaN or infinity, accepted: finite values')
    shape = (-1,) + pred.shape[-2:]
    if not mask.reshape(shape).any((1, 2)).all():
        raise ValueError('a mask is empty, accepted: at least one pixel that counts')
    return pred.reshape(shape), target.reshape(shape), mask.reshape(shape), pred.ndim == 2


def _each(function, pred, target, mask):
    pred, target, mask, single = _pictures(pred, target, mask)
    values = np.array([function(p, t, m) for p, t, m in zip(pred, target, mask)])
    return values[0] if single else values


def mae(pred, target, mask=None):
    """Mean absolute error of every picture, 0 is best (paper's Eq. 7 and Table 1)."""
    return _each(lambda p, t, m: np.abs(p - t)[m].mean(), pred, target, mask)


def mse(pred, target, mask=None):
    """Mean squared error of every picture."""
    return _each(lambda p, t, m: np.square(p - t)[m].mean(), pred, target, mask)


def bias(pred, target, mask=None):
    """Mean signed error of every picture: + calls it more underexposed than it is."""
    return _each(lambda p, t, m: (p - t)[m].mean(), pred, target, mask)


def level_detail(pred, target, mask=None):
    """The error in two parts: what one number per picture would repair, and what it would not.

    Returns:
        level: abs(bias), how far the map's mean is off;
        detail: MAE after the best constant is taken off the error (its median, which minimises that MAE).
    """
    detail = _each(lambda p, t, m: _detail((p - t)[m]), pred, target, mask)
    return np.abs(bias(pred, target, mask)), detail


def _detail(error):
    rest = error - np.median(error)
    return np.abs(rest, out=rest).mean()


def psnr_from_mse(mse):
    """Peak signal-to-noise ratio in dB, peak 1, of a mean squared error; at most MAX_PSNR, so finite."""
    return np.minimum(-10 * np.log10(np.maximum(mse, 1e-300)), MAX_PSNR)


def psnr(pred, target, mask=None):
    """PSNR of a set, peak 1, from the mean of the pictures' squared errors (always a float).

    The paper states no peak; 28 dB beside an MAE of .03 fits peak 1 (its Table 7). For single pictures:
    ``psnr_from_mse(mse(pred, target))``.
    """
    return float(psnr_from_mse(np.mean(mse(pred, target, mask))))


def ssim(pred, target, mask=None, shifted=False):
    """Structural similarity of every picture, 1 is best (Wang et al. 2004, eq. 13); needs H, W >= 11.

    Equals ``pytorch_msssim.ssim(pred, target, data_range=1, size_average=False)``: 11 x 11 Gaussian window,
    sigma 1.5, no padding. On the signed maps, as the paper's release computes it (there the means may be
    negative, so values below -1 can occur), or, with ``shifted=True``, on (map + 1)/2, where SSIM is what its
    authors defined. With a mask only windows wholly inside it count.
    """
    def one(p, t, m):
        return _ssim(_moments(p), _moments(t), _blur(p * t), whole_windows(m))[int(shifted)]
    return _each(one, pred, target, mask)


def _blur(x):
    """Gaussian window means of (H, W) float64, without padding: (H - 10, W - 10)."""
    margin = WINDOW // 2
    if min(x.shape) < WINDOW:
        raise ValueError(f'a map of {x.shape[1]}x{x.shape[0]}, accepted by SSIM: at least {WINDOW}x{WINDOW}')
    return cv2.sepFilter2D(x, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN)[margin:-margin, margin:-margin]


def _moments(x):
    """Window means of x and of its square."""
    return _blur(x), _blur(x * x)


def whole_windows(mask):
    """Which SSIM windows lie wholly inside a mask, (H, W) bool; None for all of them.

    Raises:
        ValueError: none does.
    """
    if mask.all():
        return None
    margin = WINDOW // 2
    inside = cv2.erode(mask.astype(np.uint8), np.ones((WINDOW, WINDOW), np.uint8))
    inside = inside[margin:-margin, margin:-margin] > 0
    if not inside.any():
        raise ValueError(f'a mask without any whole {WINDOW}x{WINDOW} window, which SSIM needs')
    return inside


def _ssim(pred, target, mean_of_product, windows, strip=48):
    """(signed, shifted) SSIM from window moments; shifting halves the means and quarters the variances.

    Done in strips of some rows, whose temporaries stay in the processor's cache: three times as fast as in
    one piece.
    """
    totals = np.zeros(2)
    for k in range(0, len(mean_of_product), strip):
        rows = slice(k, k + strip)
        (p, p2), (t, t2) = ((mean[rows], square[rows]) for mean, square in (pred, target))
        cov, var = mean_of_product[rows] - p * t, (p2 - p * p) + (t2 - t * t)
        for n, (p, t, scale) in enumerate(((p, t, 1.0), ((p + 1) / 2, (t + 1) / 2, 0.25))):
            values = (2 * p * t + C1) / (p * p + t * t + C1) * (2 * scale * cov + C2) / (scale * var + C2)
            totals[n] += (values if windows is None else values[windows[rows]]).sum()
    return totals / (mean_of_product.size if windows is None else windows.sum())


class Truth:
    """What is needed of one labelled picture again and again, computed once for all methods.

    Args:
        target: (H, W) residual; mask: (H, W), true = counts; grey: (H, W) the picture's grey on [0, 1], which
            gives the zones.
    """

    def __init__(self, target, mask, grey):
        self.target, self.mask = as_array(target), as_array(mask, bool)
        if not self.target.shape == self.mask.shape == np.shape(grey):
            raise ValueError(f'label {self.target.shape}, mask {self.mask.shape} and picture '
                             f'{tuple(np.shape(grey))} differ in shape')
        if not np.isfinite(self.target).all():
            raise ValueError('the label holds NaN or infinity')
        if not self.mask.any():
            raise ValueError('the label\'s mask is empty')
        self.moments, self.windows = _moments(self.target), whole_windows(self.mask)
        self.zones = np.rint(as_array(grey)[self.mask] * (ZONES - 1)).astype(int)
        valid = self.target[self.mask]
        pixels = np.bincount(self.zones, minlength=ZONES)
        self.numbers = {'mean': valid.mean(), 'mean_abs': np.abs(valid).mean(),
                        'mean_abs_unmasked': np.abs(self.target).mean(),
                        **{f'pixels_zone{z}': n for z, n in enumerate(pixels)}}

    def measure(self, pred):
        """Every number that a set's figures are made of, for one predicted (H, W) map: a dict of floats.

        mae, mse, bias, level, detail, ssim, ssim_shifted, mean (of the map), mean_abs, error_zone0..10
        (summed absolute errors).
        """
        pred = as_array(pred)
        map_values = pred[self.mask]
        error = map_values - self.target[self.mask]
        absolute, offset = np.abs(error), error.mean()
        signed, shifted = _ssim(_moments(pred), self.moments, _blur(pred * self.target), self.windows)
        by_zone = np.bincount(self.zones, absolute, minlength=ZONES)
        return {'mae': absolute.mean(), 'mse': np.einsum('i,i', error, error) / error.size, 'bias': offset,
                'level': abs(offset), 'detail': _detail(error), 'ssim': signed, 'ssim_shifted': shifted,
                'mean': map_values.mean(), 'mean_abs': np.abs(map_values).mean(),
                **{f'error_zone{z}': s for z, s in enumerate(by_zone)}}


class NoTruth:
    """Stands for :class:`Truth` where a picture has a score and no label: a map has means, and nothing to be compared with."""

    def __init__(self):
        self.numbers = dict.fromkeys(TRUTH_NUMBERS, float('nan'))

    def measure(self, pred):
        pred = as_array(pred)
        return {**dict.fromkeys(MAP_NUMBERS, float('nan')), 'mean': pred.mean(), 'mean_abs': np.abs(pred).mean()}


TRUTH_NUMBERS = ('mean', 'mean_abs', 'mean_abs_unmasked') + tuple(f'pixels_zone{z}' for z in range(ZONES))
MAP_NUMBERS = ('mae', 'mse', 'bias', 'level', 'detail', 'ssim', 'ssim_shifted', 'mean', 'mean_abs') + tuple(
    f'error_zone{z}' for z in range(ZONES))
