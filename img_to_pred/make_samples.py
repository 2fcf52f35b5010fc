"""Make the sample pictures of this folder again: public-domain photographs out of scikit-image and matplotlib, some exposed anew.

    python img_to_pred/make_samples.py
"""
import sys
from pathlib import Path

import matplotlib
import skimage
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from datasets.build import to_picture  # noqa: E402
from datasets.images import read_image, to_tensor  # noqa: E402
from datasets.simulation import CameraCurve, expose, quantise  # noqa: E402

SKIMAGE = Path(skimage.__file__).parent / 'data'
MATPLOTLIB = Path(matplotlib.__file__).parent / 'mpl-data' / 'sample_data'


def curve():
    """A plain camera: gamma 2.2, a soft shoulder, some contrast."""
    return CameraCurve(*(torch.full((1, 1, 1, 1), v) for v in (2.2, 3.0, 2.0, 0.5, 0.0)))


def exposed(path, stops):
    """The photograph exposed anew; ``stops`` is a number or a function of the columns -1 (left) .. 1 (right)."""
    x = to_tensor(read_image(path))[None]
    if callable(stops):
        stops = stops(torch.linspace(-1, 1, x.shape[-1])).view(1, 1, 1, -1)
    return to_picture(quantise(expose(x, stops, curve(), torch.Generator().manual_seed(0), headroom=1.0))[0])


def main():
    pictures = {
        'well_exposed': read_image(SKIMAGE / 'astronaut.png'),
        'portrait': read_image(MATPLOTLIB / 'grace_hopper.jpg'),
        'night': read_image(SKIMAGE / 'rocket.jpg'),
        'underexposed': exposed(SKIMAGE / 'coffee.png', -3.0),
        'overexposed': exposed(SKIMAGE / 'chelsea.png', 2.0),
        # deep shade on the left, glaring light on the right
        'under_and_over': exposed(SKIMAGE / 'coffee.png', lambda x: 3 * torch.tanh(3 * x)),
    }
    for name, picture in pictures.items():
        picture.save(HERE / f'{name}.jpg', quality=92)


if __name__ == '__main__':
    main()
