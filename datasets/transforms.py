"""Paired transforms: what moves the picture moves its label and its validity mask, by the same numbers.

A sample is a dict of tensors whose entries ``image`` (3, H, W), ``residual`` (1, H, W) and ``mask`` (1, H, W) belong together; other entries
pass through. Every function returns a new dict.
"""
import torch
import torch.nn.functional as F

SPATIAL = ('image', 'residual', 'mask')
MIN_WINDOW = 0.3  # smallest share of a picture's area that a training window takes


def _apply(sample, f):
    return {k: f(v) if k in SPATIAL else v for k, v in sample.items()}


def flip_horizontal(sample):
    """Mirror left and right."""
    return _apply(sample, lambda t: t.flip(-1))


def crop(sample, top, left, height, width):
    """Cut a window out.

    Raises:
        ValueError: when the window does not lie inside the picture.
    """
    h, w = sample['image'].shape[-2:]
    if top < 0 or left < 0 or top + height > h or left + width > w or height < 1 or width < 1:
        raise ValueError(f'crop of {height}x{width} at ({top}, {left}) does not lie inside {h}x{w}')
    return _apply(sample, lambda t: t[..., top:top + height, left:left + width])


def resize(sample, size):
    """Antialiased bilinear resize of picture, label and mask to ``(height, width)`` or a square of ``size``.

    The residual is linear in grey, so resizing it equals taking the difference of the resized pictures.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)

    def f(t):
        if t.shape[-2:] == size:
            return t
        return F.interpolate(t[None].float(), size=size, mode='bilinear', align_corners=False, antialias=True)[0]
    out = _apply(sample, f)
    if 'mask' in out:
        out['mask'] = (out['mask'] > 0.999).float()  # a pixel is valid when all that went into it was
    return out


def random_window(height, width, generator, min_window=MIN_WINDOW, max_ratio=1.25):
    """``(mirrored, top, left, height, width)`` of a training window, drawn as :func:`random_flip_crop_resize` says."""
    u = torch.rand(5, generator=generator).tolist()
    area = min_window + (1 - min_window) * u[1]
    aspect = min(max_ratio, 1 / area) ** (u[2] - 0.5)
    ch, cw = min(height, round(height * area ** 0.5 * aspect)), min(width, round(width * area ** 0.5 / aspect))
    return u[0] < 0.5, int((height - ch + 1) * u[3]), int((width - cw + 1) * u[4]), ch, cw


def random_flip_crop_resize(sample, size, generator, min_window=MIN_WINDOW, max_ratio=1.25):
    """Training augmentation: mirror half of the pictures, take a random window, resize.

    Args:
        sample: see above.
        size: side of the square that comes out.
        generator: torch.Generator.
        min_window: smallest share of the area that the window takes, on (0, 1]; 1: always the whole picture.
        max_ratio: by how much the window's aspect ratio may differ from the picture's, as far as the window fits in.
    """
    mirrored, *place = random_window(*sample['image'].shape[-2:], generator, min_window, max_ratio)
    return resize(crop(flip_horizontal(sample) if mirrored else sample, *place), size)


def augment(sample, size, seed=None, min_window=MIN_WINDOW):
    """:func:`random_flip_crop_resize`, fixed by ``seed``; a fresh random one where it is None."""
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    return random_flip_crop_resize(sample, size, generator, min_window)
