"""Views of HDR panoramas: any exposure, with true clipping, and an ideal picture by a published auto-exposure.

A panorama holds the scene's light without the camera's limits, so a rendering at +3 EV is white where a camera would be white, and
what was lost there is really lost; no simulation from an 8-bit photograph can do that.
"""
import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from .iea40k import DatasetError
from .simulation import CameraCurve, SimulationConfig, random_curve, uniform

BRACKET = SimulationConfig(contrast=(1.5, 6.0))  # cameras of render_bracket: real brackets have more contrast than pictures in general


def read_hdr(path):
    """A Radiance .hdr panorama as linear RGB, (1, 3, H, W) float32.

    Raises:
        DatasetError: when the file is missing, not HDR, not 2:1, or holds values that are negative or not finite.
    """
    path = Path(path)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as e:
        raise DatasetError(f'{path}: {e.strerror}') from e
    image = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR) if data.size else None
    if image is None or image.dtype != np.float32:
        raise DatasetError(f'{path}: not a Radiance HDR picture')
    if image.shape[1] != 2 * image.shape[0]:
        raise DatasetError(f'{path}: {image.shape[1]}x{image.shape[0]}, an equirectangular panorama is twice as wide as high')
    if not np.isfinite(image).all() or image.min() < 0:
        raise DatasetError(f'{path}: holds light that is negative or not finite')
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)[None]


def perspective_view(panorama, yaw, pitch, fov, size):
    """What a camera sees in an equirectangular panorama.

    Args:
        panorama: (1, C, H, 2H) linear light.
        yaw, pitch: direction in radians, pitch up. fov: horizontal field of view in radians, below pi.
        size: (height, width) of the view.

    Returns:
        (1, C, height, width).
    """
    h, w = size
    half = math.tan(fov / 2)
    x, y = torch.meshgrid((torch.arange(w) + 0.5) / w * 2 - 1, (torch.arange(h) + 0.5) / h * 2 - 1, indexing='xy')
    x, y = x * half, y * half * h / w
    # camera looks along +z, x to the right, y down; turn up by pitch, then around by yaw
    yy, zz = y * math.cos(pitch) - math.sin(pitch), y * math.sin(pitch) + math.cos(pitch)
    longitude = torch.atan2(x, zz) + yaw
    latitude = torch.atan2(yy, torch.hypot(x, zz))
    u = torch.remainder(longitude / (2 * math.pi) + 0.5, 1)  # 0 .. 1 over the panorama's width
    v = latitude / math.pi + 0.5
    padded = F.pad(panorama, (1, 1, 0, 0), mode='circular')  # the seam: left and right edge are neighbours
    width = panorama.shape[-1]
    grid = torch.stack(((u * width + 1) / (width + 2) * 2 - 1, v * 2 - 1), -1)[None]
    return F.grid_sample(padded, grid, mode='bilinear', padding_mode='border', align_corners=False)


def log_luminance(light):
    """Mean, 1st and 99th percentile of the luminance of linear light (1, 3, H, W), in stops."""
    grey = (light * light.new_tensor([.2126, .7152, .0722])[:, None, None]).sum(1).clamp_min(1e-6)
    logs = grey.log2().flatten()
    return logs.mean().item(), logs.quantile(0.01).item(), logs.quantile(0.99).item()


def auto_exposure(light):
    """Scale linear light so that a curve with the returned white point shows it well.

    Key and white point after E. Reinhard, "Parameter estimation for photographic tone reproduction" (JGT 2002): the key is .18 for a
    scene whose average lies half-way between its darks and its brights, lower for a dark scene with few lights, higher for a bright one.

    Args:
        light: (1, 3, H, W) linear.

    Returns:
        ``(scaled light, white)``: light at which 1 is the curve's middle range, white a number from 1.5 to 16.
    """
    average, low, high = log_luminance(light)
    spread = max(high - low, 1e-3)
    key = 0.18 * 4 ** ((2 * average - low - high) / spread)
    scaled = light * (key / 2 ** average)
    return scaled, min(max(1.5 * 2 ** (spread - 5), 1.5), 16.0)


def render(light, exposures, generator):
    """An ideal picture of a view and the same view under other exposures, by one random camera.

    Args:
        light: (1, 3, H, W) linear view. exposures: stops. generator: torch.Generator.

    Returns:
        ``(ideal, [picture, ...])``, each (3, H, W) on [0, 1].
    """
    scaled, white = auto_exposure(light)
    config = SimulationConfig()
    curve = CameraCurve(uniform(1, (2.0, 2.4), generator), torch.full((1, 1, 1, 1), white), uniform(1, (0.5, 3.0), generator),
                        uniform(1, (0.4, 0.6), generator), uniform(1, config.black, generator))
    return curve.to_display(scaled)[0], [curve.to_display(scaled * 2.0 ** ev)[0] for ev in exposures]


def random_view(panorama, generator, size=(384, 512)):
    """A view in a random direction: all around, up to 25 degrees up or down, 45 to 90 degrees wide."""
    yaw, pitch, fov = (uniform(1, r, generator).item() for r in ((-math.pi, math.pi), (-25, 25), (45, 90)))
    return perspective_view(panorama, yaw, math.radians(pitch), math.radians(fov), size)


def contrasty_view(panorama, generator, size=(288, 384)):
    """The more contrasty of two random views: people take brackets of such scenes. (1, C, height, width)."""
    def spread(light):
        _, low, high = log_luminance(light)
        return high - low
    return max((random_view(panorama, generator, size) for _ in range(2)), key=spread)


def render_bracket(light, generator, span=(3.0, 9.0), middle=(-0.5, 0.5)):
    """An exposure bracket of a scene, as people take them, by one random camera: 3 to 9 frames, .7 to 2.5 stops apart.

    With the defaults the mean grey of the frames of panorama views (.40), its spread (.25) and the mean of their fusion (.48) come near
    those of the training brackets (.40, .27, .45).

    Args:
        light: (1, 3, H, W) linear. generator: torch.Generator. span: stops from the darkest frame to the brightest.
        middle: mean and standard deviation of the middle exposure, in stops from Reinhard's.

    Returns:
        The frames from dark to bright, each (3, H, W) on [0, 1].
    """
    scaled, _ = auto_exposure(light)
    curve = random_curve(1, BRACKET, generator)
    n = int(torch.randint(3, 10, (1,), generator=generator))
    step = min(max(uniform(1, span, generator).item() / (n - 1), 0.7), 2.5)
    mean, deviation = middle
    centre = torch.randn(1, generator=generator).item() * deviation + mean
    return [curve.to_display(scaled * 2 ** (centre + (i - (n - 1) / 2) * step))[0] for i in range(n)]
