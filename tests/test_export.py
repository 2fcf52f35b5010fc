"""export_onnx.py: the exported form equals the network, at any size, and says in one line what it cannot do."""
from dataclasses import replace

import pytest
import torch

import export_onnx
from models import PIEANet, save_model
from models.haar import haar_dwt2d, haar_idwt2d
from models.p_ieanet import inverse_polyphase, polyphase
from tests_support import SMALL, awake

VARIANTS = {'full': {}, 'curves': {'curve': 0.4, 'kinds': 2}, 'curves with semantics': {'curve': 0.4, 'kinds': 2, 'semantics': True},
            'one level': {'levels': 1, 'structure_widths': (8,), 'down': (1, 1)}, 'no dwt': {'use_dwt': False},
            'db4': {'wavelet': 'db4'}, 'no structure': {'use_structure': False}, 'no lightness': {'use_lightness': False}}


def network(**changes):
    """Small and untrained, with maps that are not flat."""
    torch.manual_seed(0)
    return awake(PIEANet(replace(SMALL, **changes)))


@pytest.mark.parametrize('size', [(8, 8), (7, 10), (10, 7), (9, 13)])
def test_wavelets_for_export_are_the_wavelets(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for split, merge, split_, merge_ in ((haar_dwt2d, haar_idwt2d, export_onnx.split_haar, export_onnx.merge_haar),
                                         (polyphase, inverse_polyphase, export_onnx.split_polyphase, export_onnx._interleave)):
        bands = split(x)
        assert all(torch.equal(a, b) for a, b in zip(bands, split_(x)))
        assert torch.allclose(merge(*bands, size=size), merge_(*bands, size=size), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (61, 200)])
def test_exported_module_equals_the_network(changes, size):
    net, x = network(**changes), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    split = net.split
    assert torch.allclose(export_onnx.Exported(net)(x), net(x), atol=1e-6)
    assert net.split is split  # the network itself stays as it was


@pytest.mark.slow
@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_onnx_equals_the_network(changes, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    net = network(**changes)
    export_onnx.export_onnx(net, tmp_path / 'a.onnx')
    assert [p.name for p in tmp_path.iterdir()] == ['a.onnx']  # one file, nothing left behind
    assert export_onnx.largest_difference(net, tmp_path / 'a.onnx') < 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_export_program_survives_its_file(tmp_path, capsys):
    net = network()
    save_model(net, tmp_path / 'a.safetensors')
    assert export_onnx.main(['--checkpoint', str(tmp_path / 'a.safetensors'), '--format', 'torch']) == 0
    module = torch.export.load(tmp_path / 'a.pt2').module()
    for shape in ((1, 3, 32, 32), (3, 3, 45, 130)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(2))
        assert torch.allclose(module(x), net(x), atol=1e-5)


@pytest.mark.parametrize('arguments, words', [
    (['--checkpoint', 'none.safetensors'], 'none.safetensors: no such file'),
    (['--checkpoint', 'none/a.safetensors'], 'a.safetensors: no such file'),
    (['--opset', '17'], '18 or newer'),
    (['--opset', '99'], 'opset is 99, accepted: 18 to'),
    (['--checkpoint', 'network.safetensors', '--format', 'torch', '--out', 'none/a.pt2'], 'none: no such folder'),
    (['--checkpoint', 'network.safetensors', '--out', 'none/a.onnx'], 'none: no such folder'),
    (['--checkpoint', 'network.safetensors', '--out', '.'], 'is a folder'),
    (['--format', 'text'], '--format'),
])
def test_errors_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(network(), 'network.safetensors')
    with pytest.raises(SystemExit) as end:
        export_onnx.main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and words in error and error.count('\n') == 1


def test_a_torch_program_is_whole_or_not_there(tmp_path, monkeypatch, capsys):
    save_model(network(), tmp_path / 'a.safetensors')
    (tmp_path / 'a.pt2').write_text('before')
    monkeypatch.setattr(export_onnx, 'export_program', lambda *_: None)
    monkeypatch.setattr(torch.export, 'save', lambda program, f: f.write(b'program'))
    command = ['--checkpoint', str(tmp_path / 'a.safetensors'), '--format', 'torch']

    def full(*_):
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as disk, pytest.raises(SystemExit) as end:
        disk.setattr('os.fsync', full)
        export_onnx.main(command)
    error = capsys.readouterr().err
    assert end.value.code == 2 and 'No space left' in error and error.count('\n') == 1
    assert (tmp_path / 'a.pt2').read_text() == 'before'
    assert export_onnx.main(command) == 0 and (tmp_path / 'a.pt2').read_text() == 'program'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pt2', 'a.safetensors']


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match='Conv2d cannot be exported, accepted: PIEANet$'):
        export_onnx.export_program(torch.nn.Conv2d(3, 1, 1))
