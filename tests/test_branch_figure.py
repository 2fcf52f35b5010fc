"""docs/make_branch_figure.py draws any network that has both branches."""
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from models import PIEANet, save_model
from tests_support import SMALL

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'docs'))
import make_branch_figure  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize('changes', [{}, {'wavelet': 'db4'}, {'levels': 1, 'structure_widths': (4,)}], ids=['haar', 'db4', 'one level'])
def test_draws(changes, tmp_path):
    save_model(PIEANet(replace(SMALL, **changes)), tmp_path / 'a.safetensors')
    make_branch_figure.main(['--checkpoint', str(tmp_path / 'a.safetensors'), '--out', str(tmp_path / 'a.png')])
    assert Image.open(tmp_path / 'a.png').width > 800


def test_says_what_it_cannot_draw(tmp_path, capsys):
    save_model(PIEANet(replace(SMALL, use_structure=False)), tmp_path / 'a.safetensors')
    for name, words in (('a', 'has not both branches'), ('b', 'no such file')):
        with pytest.raises(SystemExit):
            make_branch_figure.main(['--checkpoint', str(tmp_path / f'{name}.safetensors'), '--out', str(tmp_path / 'a.png')])
        assert words in capsys.readouterr().err
