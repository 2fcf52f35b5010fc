"""torch.hub from a clone: offline, from another working directory, in a process that has not seen the repository."""
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent


def run(code, cwd):
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    nowhere = 'http://127.0.0.1:9'  # whoever wants the network fails
    environment.update(OMP_NUM_THREADS='1', TORCH_HOME=str(cwd / 'hub'), http_proxy=nowhere, https_proxy=nowhere)
    return subprocess.run([sys.executable, '-c', textwrap.dedent(code)], cwd=cwd, env=environment,
                          capture_output=True, text=True)


def test_entries_work_elsewhere_and_offline(tmp_path, weights):
    result = run(f'''
        import torch
        hub = lambda name, **k: torch.hub.load({str(ROOT)!r}, name, source='local', **k)
        x = torch.rand(2, 3, 40, 50)
        model = hub('p_ieanet', checkpoint={str(weights)!r})
        fresh = hub('p_ieanet', pretrained=False, levels=2, structure_widths=(8, 8))
        with torch.no_grad():
            print(tuple(model(x).shape), tuple(fresh(x).shape), model.training)
        predictor = hub('predictor', checkpoint={str(weights)!r}, device='cpu')
        print(predictor.predict({str(ROOT / 'img_to_pred' / 'night.jpg')!r}).residual.dtype)
        import sys
        sys.path.append({str(ROOT)!r})
        import hubconf
        print('tqdm' in hubconf.dependencies, [name for name in hubconf.dependencies if name not in sys.modules])
        print(float(hub('exposure_loss', checkpoint={str(weights)!r})(x)) >= 0)
        try:
            hub('p_ieanet', checkpoint='none.safetensors')
        except ValueError as error:
            print(error)
        ''', tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines == ['(2, 1, 40, 50) (2, 1, 40, 50) False', 'float32', 'True []', 'True',
                     'none.safetensors: no such file']


def test_another_package_of_the_same_name_is_named(tmp_path):
    (tmp_path / 'models').mkdir()
    (tmp_path / 'models' / '__init__.py').write_text('')
    result = run(f'''
        import models, torch
        torch.hub.load({str(ROOT)!r}, 'p_ieanet', source='local')
        ''', tmp_path)
    assert result.returncode == 1 and "another package 'models' is loaded already" in result.stderr


def test_another_package_of_the_same_name_before_exposure(tmp_path):
    (tmp_path / 'datasets').mkdir()
    (tmp_path / 'datasets' / '__init__.py').write_text('')
    result = run(f'''
        import datasets, sys
        sys.path.insert(0, {str(ROOT)!r})
        import exposure
        ''', tmp_path)
    assert result.returncode == 1 and "another package 'datasets' is found in place of ours" in result.stderr


def test_shipped_weights(tmp_path):
    if not (ROOT / 'checkpoints' / 'p_ieanet.safetensors').exists():
        pytest.skip('checkpoints/p_ieanet.safetensors is not there')
    code = f"import torch; print(torch.hub.load({str(ROOT)!r}, 'p_ieanet', source='local').config)"
    result = run(code, tmp_path)
    assert result.returncode == 0 and result.stdout.startswith('PIEANetConfig'), result.stderr
