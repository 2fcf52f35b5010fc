"""Shared fixtures. Data that a user may not have is found through environment variables, see README."""
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import PIEANet, save_model  # noqa: E402
from tests_support import SMALL  # noqa: E402


def _folder(name):
    value = os.environ.get(name)
    if not value and name == 'PIEANET_RELEASED' and os.environ.get('PIEANET_DATA'):
        value = str(Path(os.environ['PIEANET_DATA']) / 'released')
    if not value:
        pytest.skip(f'{name} is not set')
    if not Path(value).is_dir():
        pytest.fail(f'{name}={value} is not a folder')
    return Path(value)


@pytest.fixture
def released_dir():
    """Folder with the authors' two .pth files, golden.npz, split CSVs and sample pictures."""
    return _folder('PIEANET_RELEASED')


@pytest.fixture
def data_dir():
    """Folder with photos/, stacks/ and hdri/, see docs/data.md."""
    return _folder('PIEANET_DATA')


@pytest.fixture
def keep_threads():
    """For tests that change how many threads torch uses."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of a small untrained network."""
    torch.manual_seed(0)
    save_model(PIEANet(SMALL), tmp_path / 'small.safetensors')
    return tmp_path / 'small.safetensors'
