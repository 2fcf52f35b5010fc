"""Draw docs/samples.png, the picture at the top of the README: sample pictures above, their heat maps below, the scale beside.

    python docs/make_figure.py
"""
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exposure import Predictor  # noqa: E402

PICTURES = ('underexposed', 'overexposed', 'under_and_over', 'well_exposed', 'night', 'portrait')


def main():
    predictor = Predictor()
    figure = Figure(figsize=(13, 4.6), layout='constrained')
    axes = figure.subplots(2, len(PICTURES))
    for (above, below), name in zip(axes.T, PICTURES):
        path = ROOT / 'img_to_pred' / f'{name}.jpg'
        result = predictor.predict(path)
        above.imshow(np.asarray(predictor.read(path)))
        above.set_title(name.replace('_', ' '), fontsize=11)
        drawn = below.imshow(-result.residual, cmap='bwr', vmin=-0.5, vmax=0.5)
        below.set_xlabel(f'mean residual {result.mean_residual:+.2f}\nunder {result.share_under:.0%}, over {result.share_over:.0%}', fontsize=9)
        for a in (above, below):
            a.set(xticks=[], yticks=[])
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9, aspect=30, ticks=(-0.5, 0, 0.5))
    bar.ax.set_yticklabels(['underexposed\nresidual +0.5', 'ideal', 'overexposed\nresidual -0.5'], fontsize=9)
    figure.savefig(ROOT / 'docs' / 'samples.png', dpi=80)


if __name__ == '__main__':
    main()
