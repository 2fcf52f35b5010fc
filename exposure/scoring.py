"""From a residual map to numbers: how far from ideal, in which direction, over how much of the area."""

from dataclasses import dataclass

import cv2
import numpy as np

# |residual| from which a pixel counts as under- or over-exposed; the paper states none. A tenth of the grey
# scale is a difference that one sees at once side by side.
THRESHOLD = 0.1


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
