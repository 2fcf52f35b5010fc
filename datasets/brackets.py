"""Exposure brackets: order of the frames, alignment, the ideal picture of a scene, and where its labels mean something.

    bracket = read_bracket(folder)                        dark to bright, misaligned frames dropped, the others aligned
    ideal, own = reference_picture(bracket, 'fused')      Mertens fusion; 'frame': one of the frames; 'zones': the fusion after Adams' zones
    labels, valid = judge(ideal_grey, greys)              labels without outliers, and masks of what can be trusted

Two frames of a bracket differ in exposure, so they are compared through the monotone map of grey levels that takes one to the other
(the comparagram of S. Mann; here from the histograms of the pixels that neither clips). What is left then is misalignment, noise, or
a thing that moved.
"""
import math
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .iea40k import DatasetError
from .images import read_image
from .photographs import list_images
from .zones import correct_zones

cv2.setNumThreads(1)  # its fusion differs in the last digit from call to call with more

LOWEST = 0.5      # similarity below which a frame is dropped: 84 pairs of other scenes reach .45, pairs of one scene in 125 begin at .60
ALIGNED = 0.95    # similarity from which a frame is left as it is
GAIN = 0.02       # what a warp must gain in similarity to be used: each costs a little sharpness
CLIPPED = (3, 252)  # grey levels outside are black or white: the light there is not known
TEXTURE = 16.0    # variance of grey in a window from which it says something about alignment


class UnalignedError(DatasetError):
    """A scene of which no two frames fit together, or nothing is left when they do; builders go on without it."""


@dataclass
class Frame:
    """One picture of a bracket: its file, name (F00 is the darkest), 8-bit RGB pixels, and what was done to it."""
    path: Path
    name: str
    pixels: np.ndarray
    similarity: float = math.nan     # to its neighbour, after alignment; nan: nothing to compare
    moved: float = 0.0               # pixels that its corners were moved by at most
    reason: str = ''                 # why it was dropped

    @property
    def grey(self):
        return np.asarray(Image.fromarray(self.pixels).convert('L'))


@dataclass
class Bracket:
    """A scene: frames that are kept, from dark to bright, those that were dropped, and the name of the one that gave the geometry."""
    frames: list
    dropped: list = field(default_factory=list)
    base: str = ''


# ---------------------------------------------------------------- order

def exif_stops(path):
    """Exposure of a picture in stops, log2(time x ISO / 100 / aperture^2) from its EXIF data; None when time or aperture is missing."""
    try:
        with Image.open(path) as picture:
            exif = picture.getexif().get_ifd(0x8769)
        time, aperture, iso = float(exif[33434]), float(exif[33437]), exif.get(34855, 100)
        iso = float(iso[0] if isinstance(iso, (tuple, list)) else iso)
        stops = math.log2(time * iso / 100 / aperture ** 2)
        return stops if math.isfinite(stops) else None  # Pillow reads 0/0 as NaN
    except (KeyError, ValueError, TypeError, ZeroDivisionError, OverflowError, OSError, SyntaxError):
        return None


def read_frames(folder):
    """All frames of a folder from dark to bright: by EXIF exposure when all frames have one, and they differ, else by mean grey.

    Raises:
        DatasetError: when the frames differ in size. ImageError: when one cannot be read.
    """
    frames = [Frame(f, '', np.asarray(read_image(f))) for f in list_images(folder)]
    if len({f.pixels.shape for f in frames}) > 1:
        raise DatasetError(f'{folder}: frames differ in size: {sorted({f.pixels.shape[1::-1] for f in frames})}')
    stops = [exif_stops(f.path) for f in frames]
    known = None not in stops and len(set(stops)) > 1
    order = sorted(range(len(frames)), key=lambda i: (stops[i] if known else 0, frames[i].grey.mean()))
    frames = [frames[i] for i in order]
    for i, frame in enumerate(frames):
        frame.name = f'F{i:02d}'
    return frames


# ---------------------------------------------------------------- comparison and alignment

def unclipped(*greys):
    """Pixels that no picture clips."""
    return np.logical_and.reduce([(g > CLIPPED[0]) & (g < CLIPPED[1]) for g in greys])


def level_map(source, target, where):
    """The monotone map of grey levels that takes ``source`` to the exposure of ``target``, as 256 numbers, by their histograms."""
    a, b = (np.bincount(g[where], minlength=256).cumsum() for g in (source, target))
    return np.interp(a / max(a[-1], 1), b / max(b[-1], 1), np.arange(256)).astype(np.float32)


def similarity(source, target, least=0.005):
    """SSIM of two exposures of a scene after :func:`level_map`, over textured windows that neither clips.

    Args:
        source, target: (H, W) uint8 grey. least: share of the picture that must be left to compare.

    Returns:
        A number on [-1, 1], 1 = the same scene in the same place; nan when less than ``least`` is left.
    """
    def blur(x):
        return cv2.GaussianBlur(x, (11, 11), 1.5)
    where = unclipped(source, target)
    windows = cv2.erode(where.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    if windows.mean() < least:
        return math.nan
    a, b = level_map(source, target, where)[source], target.astype(np.float32)
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a ** 2, blur(b * b) - mean_b ** 2, blur(a * b) - mean_a * mean_b
    windows &= np.maximum(var_a, var_b) > TEXTURE
    if windows.mean() < least:
        return math.nan
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a ** 2 + mean_b ** 2 + c1) * (var_a + var_b + c2))
    return float(ssim[windows].mean())


def warp(pixels, matrix):
    """Pixels under a 3x3 homography that takes the result's coordinates to the source's (as ECC gives it)."""
    size = pixels.shape[1::-1]
    return cv2.warpPerspective(pixels, matrix, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)


def corner_shift(matrix, shape):
    """How far a homography moves a picture's corners at most, in pixels."""
    h, w = shape[:2]
    corners = np.array([[[0, 0], [w, 0], [0, h], [w, h]]], np.float32)
    return float(np.abs(cv2.perspectiveTransform(corners, matrix.astype(np.float32)) - corners).max())


def find_warp(source, target):
    """The homography that brings ``source`` onto ``target``, and the similarity after it.

    A shift by median threshold bitmaps (G. Ward, Journal of Graphics Tools 2003; OpenCV's AlignMTB) comes first, then a rotation and
    shift and then a homography by correlation (ECC, Evangelidis and Psarakis, TPAMI 2008), each only if it raises the similarity
    by :data:`GAIN`.

    Args:
        source, target: (H, W) uint8 grey of one size.

    Returns:
        ``(matrix, similarity)``: (3, 3) float32, see :func:`warp`; the identity where nothing helps.
    """
    best, score = np.eye(3, dtype=np.float32), similarity(source, target)
    if math.isnan(score) or score >= ALIGNED:
        return best, score
    farthest = 0.1 * max(source.shape)  # of a hand-held bracket; beyond it the fit has lost its way

    def consider(matrix, best, score):
        if corner_shift(matrix, source.shape) > farthest:
            return best, score
        found = similarity(warp(source, matrix), target)
        return (matrix, found) if found > score + GAIN else (best, score)
    bits = max(1, int(math.log2(min(farthest, *source.shape))))
    try:
        dx, dy = cv2.createAlignMTB(bits, 4, False).calculateShift(target, source)
        best, score = consider(np.array([[1, 0, -dx], [0, 1, -dy], [0, 0, 1]], np.float32), best, score)
    except cv2.error:  # a strip too narrow for its pyramid
        pass
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    for motion in (cv2.MOTION_EUCLIDEAN, cv2.MOTION_HOMOGRAPHY):
        where = unclipped(source, target)
        mapped = level_map(source, target, where)[source].astype(np.uint8)
        start = best.copy() if motion == cv2.MOTION_HOMOGRAPHY else best[:2].copy()
        if motion == cv2.MOTION_EUCLIDEAN and abs(np.linalg.det(best) - 1) > 1e-3:
            continue
        try:
            _, matrix = cv2.findTransformECC(target, mapped, start, motion, stop, where.astype(np.uint8) * 255, 5)
        except cv2.error:  # it did not converge
            continue
        matrix = matrix if matrix.shape == (3, 3) else np.vstack((matrix, [[0, 0, 1]])).astype(np.float32)
        best, score = consider(matrix, best, score)
    return best, score


def chain(frames, base):
    """Align frames outward from ``base``, each onto its nearest kept neighbour; see :func:`align`."""
    kept, dropped = {base: frames[base]}, []
    for step in (-1, 1):
        inner = frames[base]
        i = base + step
        while 0 <= i < len(frames):
            f = frames[i]
            matrix, score = find_warp(f.grey, inner.grey)
            if score < LOWEST:
                why = f'similarity {score:.2f} to {inner.path.name}, accepted: {LOWEST} or more'
                dropped.append(Frame(f.path, f.name, f.pixels, score, 0.0, why))
            else:
                moved = corner_shift(matrix, f.pixels.shape)
                inner = kept[i] = Frame(f.path, f.name, warp(f.pixels, matrix) if moved else f.pixels, score, moved)
            i += step
    return [kept[i] for i in sorted(kept)], dropped


def well_exposed(grey):
    """How well exposed a frame is: share of mid-grey minus share of black and white."""
    return ((grey > 64) & (grey < 192)).mean() - ((grey < CLIPPED[0]) | (grey > CLIPPED[1])).mean()


def align(frames, base=None):
    """Drop frames that do not fit, align the others, and cut off the margin that not all frames show.

    A frame is compared with its neighbour in exposure. When it does not fit even after alignment it is dropped; a frame that shares no
    unclipped texture with its neighbour is kept as it is.

    Args:
        frames: of one size, from dark to bright. base: index of the frame that keeps its place; default: the best exposed one that
            more than half of the frames fit to.

    Returns:
        :class:`Bracket`.

    Raises:
        UnalignedError: nothing is left within the margin, as of a long strip.
    """
    order = [base] if base is not None else sorted(range(len(frames)), key=lambda i: -well_exposed(frames[i].grey))
    best = None
    for start in order:
        kept, dropped = chain(frames, start)
        if best is None or len(kept) > len(best.frames):
            best = Bracket(kept, dropped, frames[start].name)
        if 2 * len(kept) > len(frames):
            break
    margin = math.ceil(max(f.moved for f in best.frames) - 1e-3)
    height, width = best.frames[0].pixels.shape[:2]
    if 2 * margin >= min(height, width):
        raise UnalignedError(f'{frames[0].path.parent}: frames are moved by up to {margin} pixels, which leaves nothing of {width}x{height}')
    if margin:
        for f in best.frames:
            f.pixels = np.ascontiguousarray(f.pixels[margin:-margin, margin:-margin])
    return best


def read_bracket(folder, base=None):
    """An aligned bracket out of a folder.

    Args:
        folder: one scene's frames, all of one size. base: file name of the frame that keeps its place (a given reference).

    Raises:
        DatasetError: frames of several sizes, or no frame of the name ``base``. UnalignedError: fewer than two frames that fit together,
            or nothing that all of them show.
    """
    frames = read_frames(folder)
    index = None
    if base is not None:
        index = next((i for i, f in enumerate(frames) if f.path.name == base), None)
        if index is None:
            raise DatasetError(f'{folder}: has no frame {base}, which the list names as the reference')
    bracket = align(frames, index)
    if len(bracket.frames) < 2:
        raise UnalignedError(f'{folder}: no two frames fit together ({"; ".join(f.reason for f in bracket.dropped) or "only one frame"})')
    return bracket


# ---------------------------------------------------------------- the ideal

def fuse(pictures):
    """Mertens exposure fusion (OpenCV) of 8-bit RGB arrays, as 8-bit RGB."""
    fused = cv2.createMergeMertens().process([np.ascontiguousarray(p[..., ::-1]) for p in pictures])
    return (fused[..., ::-1].clip(0, 1) * 255).round().astype(np.uint8)


def reference_picture(bracket, reference='fused', listed=None):
    """The ideal picture of a scene.

    Args:
        bracket: see :func:`read_bracket`. reference: 'fused' (Mertens fusion of the kept frames), 'zones' (that, corrected by
            :func:`datasets.zones.correct_zones`) or 'frame' (the frame with most mid-grey and least clipping).
        listed: file name of the frame to take for 'frame'.

    Returns:
        ``(PIL picture, index of the frame that it is, or None)``.
    """
    if reference == 'frame':
        scores = [f.path.name == listed if listed else well_exposed(f.grey) for f in bracket.frames]
        own = int(np.argmax(scores))
        return Image.fromarray(bracket.frames[own].pixels), own
    if reference not in ('fused', 'zones'):
        raise ValueError(f"reference is {reference!r}, accepted: 'fused', 'frame', 'zones'")
    fused = fuse([f.pixels for f in bracket.frames])
    return Image.fromarray(correct_zones(fused) if reference == 'zones' else fused), None


# ---------------------------------------------------------------- what the labels are worth

def disagreement(dark, bright, tolerance=20):
    """Pixels at which two exposures of a scene do not fit: things that moved, logos, defects.

    Args:
        dark, bright: (H, W) uint8 grey, aligned.
        tolerance: grey levels, on top of what noise of +-2 levels in ``dark`` becomes in ``bright``.

    Returns:
        (H, W) bool; false where either picture is clipped.
    """
    where = unclipped(dark, bright)
    table = level_map(dark, bright, where)
    slope = table[np.minimum(np.arange(256) + 2, 255)] - table[np.maximum(np.arange(256) - 2, 0)]
    return where & (np.abs(table[dark] - bright) > tolerance + slope[dark])


def judge(ideal, greys, own=None, smallest=9):
    """Labels of a bracket's frames without outliers, and masks of where they mean something.

    Neighbouring exposures are compared by :func:`disagreement`. Where they do not fit, an isolated spot of fewer than ``smallest``
    pixels takes the median of its 5x5 neighbourhood; a larger one (grown by two pixels) is not valid. Nor is a pixel that is black or
    white in the ideal: how bright it should be is not known.

    Args:
        ideal: (H, W) grey of the reference. greys: the frames' (H, W) uint8 greys, aligned, from dark to bright.
        own: index of the frame that is the ideal, when one is: then only what changed between it and a frame counts, else what changed
            anywhere, for the fusion has it all.

    Returns:
        ``(labels, valid)``: lists of (H, W) int16, ideal - frame, and of (H, W) bool.
    """
    ideal = np.asarray(ideal).astype(np.int16)
    steps = [disagreement(a, b) for a, b in zip(greys, greys[1:])]
    clipped = ~unclipped(ideal)
    labels, valid = [], []
    for i, grey in enumerate(greys):
        label = ideal - grey.astype(np.int16)
        seen = steps if own is None else steps[min(i, own):max(i, own)]
        wrong = np.logical_or.reduce(seen) if len(seen) else np.zeros(label.shape, bool)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=8)
        small = wrong & (stats[:, cv2.CC_STAT_AREA] < smallest)[parts]
        label = np.where(small, cv2.medianBlur(label, 5), label)
        large = cv2.dilate((wrong & ~small).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        labels.append(label)
        valid.append(~(large | clipped))
    return labels, valid
