"""Adams' zones, block by block: how the paper's experts set the ideal of a fused bracket, as a rule.

    better = correct_zones(fused)                         (H, W, 3) uint8
"""
import cv2
import numpy as np


def superpixels(picture, cell=24):
    """Blocks that follow the picture's edges: watershed from a regular grid of seeds, about ``cell`` pixels wide.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (H, W) int32 labels 0, 1, 2, ...; every pixel has one.
    """
    h, w = picture.shape[:2]
    if min(h, w) < 3:  # watershed leaves out the frame, and here that is all
        return np.zeros((h, w), np.int32)
    seeds = np.zeros((h, w), np.int32)
    ys, xs = (np.arange(cell // 2, n, cell) if n > cell // 2 else np.array([n // 2]) for n in (h, w))
    seeds[np.ix_(ys, xs)] = np.arange(1, len(ys) * len(xs) + 1).reshape(len(ys), len(xs))
    labels = cv2.watershed(cv2.GaussianBlur(picture, (5, 5), 0), seeds)
    while (bare := labels <= 0).any():  # the ridges between blocks, and the frame that watershed leaves out
        labels = np.where(bare, cv2.dilate(labels.clip(0).astype(np.float32), np.ones((3, 3))).astype(np.int32), labels)
    return np.unique(labels, return_inverse=True)[1].reshape(h, w).astype(np.int32)


def guided(values, guide, radius, eps=0.01):
    """Edge-preserving smoothing of ``values`` along the edges of ``guide`` (He, Sun and Tang, TPAMI 2013); (H, W) float32 each."""
    def box(x):
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)
    mean_g, mean_v = box(guide), box(values)
    a = (box(guide * values) - mean_g * mean_v) / (box(guide * guide) - mean_g ** 2 + eps)
    return box(a) * guide + box(mean_v - a * mean_g)


def zone_of(light):
    """Adams' zone of linear light on [0, 1]: V is middle grey (.18), one zone a stop, 0 to X."""
    return np.clip(5 + np.log2(np.maximum(light, 1e-4) / 0.18), 0, 10)


def correct_zones(picture, strength=0.6, low=3.5, high=6.5):
    """Bring a picture block by block towards the zones that carry texture.

    After A. Adams, *The Negative*: dark things that should still show their texture lie in zone III, bright ones in VII. Every
    superpixel whose mean zone lies outside ``low`` .. ``high`` is brought nearer by ``strength`` of its distance, flat blocks less than
    textured ones (a bare sky or a lamp may be white). The stops are smoothed along the picture's edges, so that no block can be seen.

    Args:
        picture: (H, W, 3) uint8 RGB, a fusion.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    x = picture.astype(np.float32) / 255
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)
    luma = light @ np.array([.2126, .7152, .0722], np.float32)
    blocks, zones = superpixels(picture), zone_of(luma).astype(np.float32)
    count = np.bincount(blocks.ravel())
    mean = np.bincount(blocks.ravel(), zones.ravel()) / count
    spread = np.sqrt(np.maximum(np.bincount(blocks.ravel(), (zones ** 2).ravel()) / count - mean ** 2, 0))
    wish = strength * (np.clip(mean, low, high) - mean) * np.clip(0.4 + 2 * spread, 0, 1)
    stops = guided(wish.astype(np.float32)[blocks], zones / 10, max(8, min(luma.shape) // 12))
    # light g / (1 + light (g - 1)): the gain g in the darks, white stays white, so nothing is clipped
    gain = np.exp2(stops)[..., None]
    light = light * gain / (1 + light * (gain - 1))
    x = np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)
    return (x.clip(0, 1) * 255).round().astype(np.uint8)
