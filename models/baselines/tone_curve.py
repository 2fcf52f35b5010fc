"""The tone curve from statistics (models/tone_curve.py) as a network of its own: what P-IEANet does better is what looking at the picture brings."""
from .. import tone_curve
from .common import Settings, check_input


class ToneCurve(tone_curve.ToneCurve):
    """(B, 3, H, W) RGB on [0, 1], H and W >= 32 -> residual (B, 1, H, W). Arguments: of :class:`models.tone_curve.ToneCurve`."""

    def __init__(self, width=128, knots=9, dropout=0.2):
        super().__init__(width, knots, dropout)
        self.config = Settings(width=width, knots=knots, dropout=dropout)

    def forward(self, x):
        check_input(x)
        return super().forward(x)
