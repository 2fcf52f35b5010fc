"""Baselines that need no training: functions (B, 3, H, W) RGB on [0, 1] -> residual (B, 1, H, W) on [-1, 1].

The general adapter is :func:`enhancer_residual`: any enhancement method gives a pseudo reference, and
residual = grey(enhanced) - grey(input). To add one, write ``picture -> enhanced`` and name it in ``UNTRAINED``.
The hardest to beat are auto-exposure and, on real brackets judged by one of their frames, histogram
equalisation. All treat each picture by itself.
"""
import cv2
import numpy as np
import torch

from ..grey import LUMA, luma

KEY = 0.45  # mean grey that auto-exposure aims at: the mean over well-exposed photographs


def to_linear(x):
    """sRGB display value on [0, 1] -> linear light (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def from_linear(x):
    """Linear light on [0, 1] -> sRGB display value."""
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def zero(x):
    """Everything is fine everywhere."""
    return torch.zeros_like(x[:, :1])


def constant(x):
    """One number per picture: mid-grey minus its mean grey."""
    return (KEY - luma(x).mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:]).clone()


def _to_mid_grey(x, curve, limit, steps=30):
    """Send pictures through ``curve(values, p)``, p such that a picture's mean grey becomes KEY.

    ``curve`` works value by value and rises with p; p is found in -limit .. limit by bisection on the
    picture's histogram, in steps of 1/16 of an 8-bit level (8-bit pictures fit it exactly).
    """
    bins = 255 * 16 + 1
    levels = torch.linspace(0, 1, bins, dtype=torch.float64, device=x.device)
    index = (x * (bins - 1)).round().long().flatten(1)
    share = torch.tensor(LUMA, dtype=torch.float64, device=x.device).view(1, 3, 1, 1) / x[0, 0].numel()
    histogram = torch.zeros(len(x), bins, dtype=torch.float64, device=x.device)
    histogram.scatter_add_(1, index, share.expand(x.shape).flatten(1))
    high = torch.full((len(x), 1), limit, dtype=torch.float64, device=x.device)
    low = -high
    for _ in range(steps):
        p = (low + high) / 2
        dark = (histogram * curve(levels, p)).sum(1, keepdim=True) < KEY
        low, high = torch.where(dark, p, low), torch.where(dark, high, p)
    return curve(x, ((low + high) / 2).to(x.dtype)[:, :, None, None])


def auto_exposure(x):
    """As a camera's meter: one gain in linear light, at most 10 stops, that brings the mean to KEY."""
    def expose(values, stops):
        return from_linear((to_linear(values) * torch.exp2(stops)).clamp(max=1))
    return _to_mid_grey(x, expose, 10.0)


def gamma(x):
    """One exponent per picture that makes the mean grey KEY."""
    return _to_mid_grey(x, lambda values, p: values ** torch.exp2(-p), 6.0)


def _per_picture(function):
    """A function of one (H, W, 3) uint8 RGB picture, to uint8 or float on [0, 1], made one of a batch."""
    def enhance(x):
        pictures = (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        enhanced = np.stack([np.asarray(function(p)) for p in pictures])
        enhanced = enhanced / np.float32(255) if enhanced.dtype == np.uint8 else enhanced.astype(np.float32)
        return torch.from_numpy(enhanced).permute(0, 3, 1, 2).clamp(0, 1).to(x.device)
    enhance.__doc__ = function.__doc__
    return enhance


def _on_luma(picture, function):
    ycrcb = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
    ycrcb[..., 0] = function(ycrcb[..., 0])
    return cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)


@_per_picture
def histogram_equalisation(picture):
    """Global histogram equalisation of the luma (OpenCV)."""
    return _on_luma(picture, cv2.equalizeHist)


@_per_picture
def clahe(picture):
    """Contrast-limited adaptive histogram equalisation of the luma (OpenCV; 8 x 8 tiles, clip limit 2)."""
    return _on_luma(picture, cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply)


@_per_picture
def lime(picture, alpha=0.15, strength=0.8):
    """Illumination estimation after LIME (Guo et al., TIP 2017): "sped-up solver", strategy I, no denoising.

    The illumination starts as the brightest channel t0 and is smoothed where t0 has no edge: t minimises
    |t - t0|^2 + alpha sum (gradient of t)^2 / (|gradient of t0| + .001). Enhanced = picture / t^0.8: it can
    only brighten.
    """
    rgb = picture.astype(np.float64) / 255
    start = rgb.max(2)
    right, down = (alpha / (np.abs(np.diff(start, axis=a)) + 1e-3) for a in (1, 0))
    illumination = np.clip(_smooth(start, right, down), 1 / 255, 1)
    return rgb / illumination[..., None] ** strength


def _smooth(start, right, down, tolerance=1e-3):
    """Solve (1 + L) t = start, L the Laplacian with these link weights, by conjugate gradients."""
    def system(t):
        y = t.copy()
        flow = right * (t[:, :-1] - t[:, 1:])
        y[:, :-1] += flow
        y[:, 1:] -= flow
        flow = down * (t[:-1] - t[1:])
        y[:-1] += flow
        y[1:] -= flow
        return y

    diagonal = 1 + np.pad(right, ((0, 0), (0, 1))) + np.pad(right, ((0, 0), (1, 0)))
    diagonal += np.pad(down, ((0, 1), (0, 0))) + np.pad(down, ((1, 0), (0, 0)))
    t, rest = start.copy(), start - system(start)
    z = direction = rest / diagonal
    power = (rest * z).sum()
    for _ in range(500):
        if (rest * rest).sum() <= tolerance ** 2 * (start * start).sum():
            break
        image = system(direction)
        step = power / (direction * image).sum()
        t, rest = t + step * direction, rest - step * image
        z = rest / diagonal
        power, previous = (rest * z).sum(), power
        direction = z + power / previous * direction
    return t


@_per_picture
def mertens(picture):
    """Exposure fusion (Mertens et al. 2007, OpenCV) of a simulated bracket, -2 .. +2 EV in linear light.

    With more than one thread OpenCV's sum of the bracket differs in the last digit from call to call
    (cv2.setNumThreads)."""
    linear = to_linear(torch.from_numpy(picture / np.float32(255)))
    bracket = [from_linear((linear * 2.0 ** ev).clamp(max=1)).mul(255).round().byte().numpy()[..., ::-1]
               for ev in (-2, -1, 0, 1, 2)]
    return cv2.createMergeMertens().process(bracket)[..., ::-1]


def enhancer_residual(enhance):
    """Make a baseline of an enhancer (B, 3, H, W) -> (B, 3, H, W), RGB on [0, 1]: its grey is the ideal."""
    def residual(x):
        return luma(enhance(x)) - luma(x)
    residual.__doc__ = enhance.__doc__
    return residual


UNTRAINED = {
    'zero': zero,
    'constant': constant,
    'auto-exposure': enhancer_residual(auto_exposure),
    'gamma': enhancer_residual(gamma),
    'histogram': enhancer_residual(histogram_equalisation),
    'clahe': enhancer_residual(clahe),
    'lime': enhancer_residual(lime),
    'mertens': enhancer_residual(mertens),
}
