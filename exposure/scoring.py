"""From a residual map to numbers: how far from ideal, in which direction, over how much of the area."""

from dataclasses import dataclass

import cv2
import numpy as np

# |residual| from which a pixel counts as under- or over-exposed; the paper states none. A tenth of the grey
# scale is a difference that one sees at once side by side.
THRESHOLD = 0.1
# Mean residual above which a picture counts as too dark on the whole, and up to which as too bright. The shipped weights, told nothing of
# what is ideal, expect photographs a little brighter than they are; validation chose it (benchmarks/score_checks.py --balances).
BALANCE = 0.02


@dataclass(frozen=True)
class Scores:
    """What a residual map says in numbers.

    Attributes:
        score: 10 (1 - mean |residual|), from 0 (all wrong) to 10 (ideal).
        mean_residual: on [-1, 1]; positive: too dark on the whole, negative: too bright.
        mean_abs_residual: on [0, 1].
        share_under, share_over: share of the area on [0, 1] with residual > threshold, residual < -threshold.
        threshold: the one that these shares were taken at.
    """

    score: float
    mean_residual: float
    mean_abs_residual: float
    share_under: float
    share_over: float
    threshold: float = THRESHOLD

    @property
    def direction(self) -> str:
        """'under' or 'over': which way the picture is off on the whole. Of one that is hardly off it says little."""
        return 'under' if self.mean_residual > BALANCE else 'over'

    @property
    def mean_under(self) -> float:
        """Mean over the whole area of the residual where it is positive, else 0."""
        return (self.mean_abs_residual + self.mean_residual) / 2

    @property
    def mean_over(self) -> float:
        """The same of the negative residual, as a positive number: mean_under + mean_over = mean_abs_residual."""
        return (self.mean_abs_residual - self.mean_residual) / 2


@dataclass(frozen=True)
class Region:
    """A block of the picture: rows top to bottom, columns left to right (ends excluded), and its mean residual."""

    top: int
    bottom: int
    left: int
    right: int
    mean_residual: float


def score_map(residual: np.ndarray, threshold: float = THRESHOLD) -> Scores:
    """The numbers of an (H, W) residual map on [-1, 1].

    Raises:
        ValueError: the map is empty or not two-dimensional, or the threshold is not in (0, 1).
    """
    if residual.ndim != 2 or residual.size == 0:
        raise ValueError(f'residual must be (H, W), not empty, but is {residual.shape}')
    if not 0 < threshold < 1:
        raise ValueError(f'threshold must be in (0, 1), but is {threshold}')
    residual = np.ascontiguousarray(residual, np.float32)
    # OpenCV sums in double and in one pass; numpy would make a full-size copy for the absolute values.
    mean = cv2.sumElems(residual)[0] / residual.size
    mean_abs = cv2.norm(residual, cv2.NORM_L1) / residual.size
    under = cv2.countNonZero((residual > threshold).view(np.uint8)) / residual.size
    over = cv2.countNonZero((residual < -threshold).view(np.uint8)) / residual.size
    return Scores(10 * (1 - mean_abs), mean, mean_abs, under, over, threshold)


def worst_region(residual: np.ndarray, blocks: int = 8) -> Region:
    """The block that is furthest from ideal as a whole: of largest |mean residual|.

    Args:
        residual: (H, W) on [-1, 1].
        blocks: the picture is cut into so many rows and columns, as evenly as its pixels allow.

    Raises:
        ValueError: the map is empty or not two-dimensional, or `blocks` is less than 1.
    """
    if residual.ndim != 2 or residual.size == 0:
        raise ValueError(f'residual must be (H, W), not empty, but is {residual.shape}')
    if blocks < 1:
        raise ValueError(f'blocks must be at least 1, but is {blocks}')
    rows, columns = (np.linspace(0, side, min(blocks, side) + 1).astype(int) for side in residual.shape)
    sums = np.add.reduceat(np.add.reduceat(residual, rows[:-1], 0, np.float64), columns[:-1], 1)
    means = sums / np.outer(np.diff(rows), np.diff(columns))
    i, j = np.unravel_index(np.abs(means).argmax(), means.shape)
    return Region(*map(int, (rows[i], rows[i + 1], columns[j], columns[j + 1])), float(means[i, j]))


def zones(grey: np.ndarray) -> np.ndarray:
    """Adams' zones of a picture, 0 (black) to 10 (white): its display grey in tenths, rounded.

    Args:
        grey: (H, W) uint8.

    Returns:
        (H, W) uint8. Zone 5 is the middle grey of the display; the residual of 0.1 is one zone.
    """
    if grey.dtype != np.uint8:
        raise ValueError(f'grey must be uint8, but is {grey.dtype}')
    return np.rint(np.arange(256) / 25.5).astype(np.uint8)[grey]


def zone_shares(grey: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
    """(11,) shares of the area in each zone; with a residual map, of the ideal picture grey + residual."""
    if residual is not None:
        if grey.shape != residual.shape:
            raise ValueError(f'grey is {grey.shape}, but the map is {residual.shape}')
        grey = np.rint(np.clip(grey + residual * 255.0, 0, 255)).astype(np.uint8)
    return np.bincount(zones(grey).ravel(), minlength=11) / grey.size
