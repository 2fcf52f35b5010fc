"""benchmarks/ablations.py: the variants are what they say, finished runs are not run again, the table reads them. Nothing is trained."""
import csv

import pytest

import train_wavelet
from benchmarks import ablations
from models.p_ieanet import PIEANetConfig

DATA = ['--data', 'set', '--train-csv', 'train.csv', '--val-csv', 'val.csv']


@pytest.fixture
def trainer(monkeypatch):
    """Stands in for train_wavelet.py: writes the log of a run and notes its arguments."""
    calls = []

    def run(command):
        args = train_wavelet.get_args(list(map(str, command[2:])))
        calls.append(args)
        args.out.mkdir(parents=True, exist_ok=True)
        with open(args.out / 'log.csv', 'w', newline='') as f:
            writer = csv.writer(f)
            writer.writerows([['step', 'epoch', 'set_mae', 'set_ssim', 'set_psnr', 'set_level', 'minutes'],
                              [30, args.epochs, 0.1 + 0.01 * args.seed + 0.05 * ('dwt' in args.without), 0.5, 20, 0.05, 1.5]])
        return type('', (), {'returncode': 0})
    monkeypatch.setattr(ablations.subprocess, 'run', run)
    monkeypatch.setattr(ablations, 'commit', lambda: 'abc')  # it asks git
    return calls


def test_variants_change_one_thing():
    def config(name):
        args = train_wavelet.get_args(['--out', 'x', *DATA, *ablations.RECIPE, *ablations.VARIANTS[name][1]])
        return {**train_wavelet.make_model(args).config.to_dict(), 'loss': args.loss}
    full = config('full')
    assert full == {**PIEANetConfig().to_dict(), 'loss': 'l1'}
    for name in ablations.VARIANTS:
        assert sum(full[k] != v for k, v in config(name).items()) == (name != 'full'), name


def test_runs_once_and_tells(trainer, tmp_path, capsys):
    command = ['--work', str(tmp_path / 'runs'), '--epochs', '3', '--results', str(tmp_path / 'a.csv'), *DATA,
               '--only', 'full', 'without DWT', 'db4']
    assert ablations.main(command) == 0
    full = [([], 'haar', seed) for seed in range(3)]
    assert [(a.without, a.wavelet, a.seed) for a in trainer] == [*full, (['dwt'], 'haar', 0), ([], 'db4', 0)]
    assert {(a.epochs, tuple(a.sizes), a.batch_size, a.val_every) for a in trainer} == {(3, (128,), 16, 3)}
    rows = list(csv.DictReader(open(tmp_path / 'a.csv', newline='')))
    assert [float(r['mae']) for r in rows] == [0.1, 0.11, 0.12, 0.15, 0.1]
    shown = capsys.readouterr().out
    assert '| without DWT | Table 3 | 1 | 0.1500 | +0.0400 | worse |' in shown
    assert '| db4 | Table 5 | 1 | 0.1000 | -0.0100 | within the seeds |' in shown
    assert (tmp_path / 'a.md').read_text() in shown
    assert ablations.main(command) == 0 and len(trainer) == 5  # all there: nothing is run


def test_another_budget_needs_another_folder(trainer, tmp_path, capsys):
    command = ['--work', str(tmp_path / 'runs'), '--results', str(tmp_path / 'a.csv'), '--only', 'db4', *DATA]
    assert ablations.main([*command, '--epochs', '3']) == 0
    assert ablations.main([*command, '--epochs', '4']) == 1
    assert 'other arguments' in capsys.readouterr().err and len(trainer) == 1


def test_wrong_arguments_end_before_the_first_run(trainer, tmp_path):
    for wrong in (['--sedes', '2'], ['--seeds', '0'], ['--only', 'db9']):
        with pytest.raises(SystemExit) as end:
            ablations.main(['--work', str(tmp_path), '--epochs', '1', *DATA, *wrong])
        assert end.value.code == 2
    assert not trainer
