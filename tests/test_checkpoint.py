import ast
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.average import average, main as average_main
from models.checkpoint import (CheckpointError, atomic_write, load_model, load_training_state, read_header, save_model,
                               save_training_state)
from models.p_ieanet import PIEANet
from tests_support import SMALL

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    net = PIEANet(SMALL).eval()
    save_model(net, tmp_path / 'a.safetensors', metadata={'val': 0.1})
    return net, tmp_path / 'a.safetensors'


@torch.no_grad()
def test_save_and_load_are_equal(saved):
    net, path = saved
    again = load_model(path)
    x = torch.rand(1, 3, 40, 40)
    assert torch.equal(net(x), again(x)) and not again.training
    assert again.config == SMALL and again.provenance == {'val': 0.1}
    assert read_header(path)[0] == 'p_ieanet'


def one_line(error, path):
    message = str(error.value)
    assert '\n' not in message and str(path) in message
    return message


def test_truncated_file(saved):
    _, path = saved
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as e:
        load_model(path)
    one_line(e, path)


@pytest.mark.parametrize('content', [b'', b'a text file', b'\xff' * 100])
def test_not_a_checkpoint(tmp_path, content):
    path = tmp_path / 'b.safetensors'
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as e:
        load_model(path)
    one_line(e, path)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError) as e:
        load_model(tmp_path / 'none.safetensors')
    assert 'no such file' in one_line(e, tmp_path / 'none.safetensors')


def test_foreign_safetensors(tmp_path):
    path = tmp_path / 'c.safetensors'
    save_file({'w': torch.zeros(3)}, path)
    with pytest.raises(CheckpointError) as e:
        load_model(path)
    assert 'header' in one_line(e, path)


def change(path, edit):
    """Save the file again with its tensors edited."""
    from safetensors import safe_open
    with safe_open(path, 'pt') as f:
        tensors, header = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()
    edit(tensors)
    save_file(tensors, path, metadata=header)


@torch.no_grad()
def test_gains_of_earlier_files_were_four_dimensional(saved):
    net, path = saved
    gains = {k: t[None, :, None, None] for k, t in net.state_dict().items() if k.endswith(('.beta', '.gamma'))}
    assert gains
    change(path, lambda tensors: tensors.update(gains))
    x = torch.rand(1, 3, 40, 40)
    assert torch.equal(net(x), load_model(path)(x))


@pytest.mark.parametrize('edit, word', [
    (lambda t: t.pop('head.0.bias'), 'missing head.0.bias'),
    (lambda t: t.update(extra=torch.zeros(2)), 'unexpected extra'),
    (lambda t: t.update({'head.0.bias': torch.zeros(3)}), r'head.0.bias is (3,)'),
    (lambda t: t.update({'head.0.bias': t['head.0.bias'] * float('nan')}), 'head.0.bias is not finite')])
def test_wrong_tensors_are_named(saved, edit, word):
    _, path = saved
    change(path, edit)
    with pytest.raises(CheckpointError) as e:
        load_model(path)
    assert word in one_line(e, path)


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    net, path = saved
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', fail)
    with pytest.raises(OSError):
        save_model(net, path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_training_state(tmp_path):
    path = tmp_path / 'last.pt'
    save_training_state(path, {'step': 3, 'w': torch.ones(2)})
    assert load_training_state(path)['step'] == 3
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError) as e:
        load_training_state(path)
    one_line(e, path)


def test_every_torch_load_is_weights_only():
    for file in ROOT.rglob('*.py'):
        if any(part.startswith('.') or part in ('venv', 'site-packages') for part in file.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == 'torch.load':
                flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert flags.get('weights_only') == 'True', f'{file}:{node.lineno}'


@torch.no_grad()
def test_average_of_weights(tmp_path, saved, capsys):
    a, path = saved
    torch.manual_seed(1)
    b = PIEANet(SMALL).eval()
    save_model(b, tmp_path / 'b.safetensors')
    assert average_main([str(path), str(tmp_path / 'b.safetensors'), '--weights', '1', '3', '--out', str(tmp_path / 'c.safetensors')]) == 0
    c = load_model(tmp_path / 'c.safetensors')
    for key, value in c.state_dict().items():
        torch.testing.assert_close(value, (a.state_dict()[key] + 3 * b.state_dict()[key]) / 4)
    assert all(torch.equal(v, a.state_dict()[k]) for k, v in average([path, path]).state_dict().items())
    save_model(PIEANet(replace(SMALL, middle=0)), tmp_path / 'd.safetensors')
    assert average_main([str(path), str(tmp_path / 'd.safetensors'), '--out', str(tmp_path / 'e.safetensors')]) == 2
    assert 'd.safetensors: not the same network' in capsys.readouterr().err and not (tmp_path / 'e.safetensors').exists()
    for weight in (0.0, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='accepted'):
            average([path, path], [1.0, weight])


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no links or pipes')
def test_atomic_write_goes_through_links_and_leaves_pipes(tmp_path):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'sub' / 'real')
    atomic_write(tmp_path / 'link', b'1')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'sub' / 'real').read_bytes() == b'1'
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    atomic_write(tmp_path / 'pipe', b'2')
    assert os.read(reader, 9) == b'2' and (tmp_path / 'pipe').is_fifo()
    os.close(reader)
