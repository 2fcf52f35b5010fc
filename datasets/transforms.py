"""Paired transforms: what moves the picture moves its label and its validity mask, by the same numbers.

A sample is a dict of tensors whose entries ``image`` (3, H, W), ``residual`` (1, H, W) and ``mask`` (1, H, W) belong together; other entries
pass through. Every function returns a new dict.
"""
import torch
import torch.nn.functional as F

SPATIAL = ('image', 'residual', 'mask')


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


def random_flip_crop_resize(sample, size, generator, scale=(0.3, 1.0), ratio=(0.8, 1.25)):
    """Training augmentation: mirror half of the pictures, take a random window of the given share of the area, resize.

    Args:
        sample: see above.
        size: side of the square that comes out.
        generator: torch.Generator.
        scale: range of the window's share of the area. ratio: range of its aspect ratio.
    """
    u = torch.rand(5, generator=generator).tolist()
    if u[0] < 0.5:
        sample = flip_horizontal(sample)
    h, w = sample['image'].shape[-2:]
    area = scale[0] + (scale[1] - scale[0]) * u[1]
    aspect = (ratio[0] * (ratio[1] / ratio[0]) ** u[2]) ** 0.5
    ch, cw = min(h, round(h * area ** 0.5 * aspect)), min(w, round(w * area ** 0.5 / aspect))
    top, left = int((h - ch + 1) * u[3]), int((w - cw + 1) * u[4])
    return resize(crop(sample, top, left, ch, cw), size)


def augment(sample, size, seed=None):
    """:func:`random_flip_crop_resize`, fixed by ``seed``; a fresh random one where it is None."""
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    return random_flip_crop_resize(sample, size, generator)
