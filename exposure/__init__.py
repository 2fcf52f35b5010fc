"""What a residual map means: prediction at full size, colours, scores."""

from .predictor import ExposureMap, Predictor
from .scoring import Scores, score_map

__all__ = ['ExposureMap', 'Predictor', 'Scores', 'score_map']
