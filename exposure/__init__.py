"""What a residual map means: prediction at full size, colours, scores."""

try:
    from .predictor import ExposureMap, Predictor
    from .scoring import Scores, score_map
except ModuleNotFoundError as e:  # our packages have everyday names
    if (package := (e.name or '').partition('.')[0]) not in ('models', 'datasets', 'metrics'):
        raise
    raise ImportError(f'another package {package!r} is found in place of ours: import exposure before it, with this clone first in sys.path') from e

__all__ = ['ExposureMap', 'Predictor', 'Scores', 'score_map']
