"""Training the benchmark's networks for one budget, and the table made of them, on tiny sets."""
import csv
import json
import sys
from pathlib import Path

import pytest

import eval_benchmark
import train_wavelet
from models import PIEANet, load_model, save_model
from test_eval_benchmark import write_set
from test_iea40k import make_set
from tests_support import SMALL

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import main_table  # noqa: E402
import readme_table  # noqa: E402
import train_baselines  # noqa: E402

TIMES = ('ms', 'ms_iqr', 'peak_mb')


@pytest.fixture
def in_process(monkeypatch):
    """Trainings run here instead of in a process of their own; the list says which."""
    class Done:
        returncode = 0
    ran = []

    def run(command):
        ran.append(command)
        Done.returncode = train_wavelet.main(command[2:])
        return Done
    monkeypatch.setattr(train_baselines.subprocess, 'run', run)
    return ran


def test_every_network_gets_the_same_budget(tmp_path, in_process, capsys):
    pairs = make_set(tmp_path / 'set', scenes=2)
    out = tmp_path / 'runs'
    passed = ['--data', tmp_path / 'set', '--train-csv', pairs, '--val-csv', pairs, '--batch-size', 2, '--sizes', 32, '--late-sizes', 40,
              '--val-size', 32, '--workers', 0, '--device', 'cpu', '--jitter', 0]
    command = [str(a) for a in ('--networks', 'zerodce', 'mslt', '--minutes', 0.002, '--timed-steps', 3, '--out', out, '--', *passed)]
    assert train_baselines.main(command[:-len(passed) - 1] + ['--plan-only', *command[-len(passed) - 1:]]) == 0 and not in_process
    budget = json.loads((out / 'budget.json').read_text())
    for b in budget['networks'].values():
        assert set(b['by_size']) == {'32', '40'} and b['steps'] == max(1, int(0.12 / b['seconds_per_step']))
        assert b['seconds_per_step'] == pytest.approx(0.8 * b['by_size']['32'] + 0.2 * b['by_size']['40'], abs=2e-4)
    for b, steps in zip(budget['networks'].values(), (2, 3)):  # not what this machine's speed gives
        b['steps'] = steps
    (out / 'budget.json').write_text(json.dumps(budget))
    assert train_baselines.main(command) == 0
    assert [c[c.index('--model') + 1] for c in in_process] == ['zerodce', 'mslt']
    rows = list(csv.DictReader((out / 'baselines.csv').read_text().splitlines()))
    assert [(r['network'], r['steps']) for r in rows] == [('zerodce', '2'), ('mslt', '3')]
    assert rows[0]['parameters'] == '79416' and float(rows[1]['set_mae']) < 1
    assert load_model(out / 'mslt/best.safetensors').provenance['step'] == 3
    assert train_baselines.main(command) == 0 and len(in_process) == 2  # nothing is left to do
    assert train_baselines.main([*command, '--seed', '1']) == 2  # other arguments
    assert 'budget.json' in capsys.readouterr().err
    assert main_table.checkpoints('own', 'x.pth', out) == ['P-IEANet=own', 'released P-IEANet=x.pth',
        f'Zero-DCE, 0.002 min={out}/zerodce/best.safetensors', f'MSLT, 0.002 min={out}/mslt/best.safetensors']


def test_short_runs_warm_up_and_average_shortly():
    command = train_baselines.command('mslt', 100, Path('out'), ['--amp', 'bf16'])
    flags = dict(zip(command[2::2], command[3::2]))
    assert flags['--warmup'] == '10' and flags['--ema'] == '0.9000' and flags['--steps'] == '100' and flags['--out'] == 'out/mslt'
    long = train_baselines.command('mslt', 10 ** 6, Path('out'), [])
    assert long[long.index('--ema') + 1] == '0.9980' and long[long.index('--warmup') + 1] == '200'


def test_the_table_comes_out_the_same_again(tmp_path, monkeypatch):
    for name in ('photos', 'stacks'):
        write_set(tmp_path / 'sets' / name, scenes=2)
    save_model(PIEANet(SMALL), tmp_path / 'own.safetensors')
    monkeypatch.setattr(eval_benchmark, 'UNTRAINED', ('zero', 'constant', 'gamma'))  # what --baseline all gives
    monkeypatch.setattr(eval_benchmark, 'cost', lambda *_: dict.fromkeys(('params', 'gflop', *TIMES)))
    tables = []
    for n, more in enumerate(([], ['--keep', tmp_path / 'keep'], ['--keep', tmp_path / 'keep'])):
        out = tmp_path / f'{n}.csv'
        assert main_table.main([str(a) for a in ('--sets', tmp_path / 'sets', '--only', 'photos', 'stacks', '--checkpoint', tmp_path / 'own.safetensors',
                                                 '--device', 'cpu', '--out', out, *more)]) == 0
        tables.append([{k: v for k, v in r.items() if k != 'commit'} for r in csv.DictReader(out.read_text().splitlines())])
    assert tables[0] == tables[1] == tables[2]
    assert [r['method'] for r in tables[0]][:3] == ['P-IEANet', 'zero', 'constant'] and len(tables[0]) == 2 * 4
    text = readme_table.figures(tables[0])
    assert '| P-IEANet | 0.' in text and 'stacks/test: 6 pictures of 2 scenes' in text and '[!]' not in text
    spoilt = [{**r, 'failed': '1'} if r['method'] == 'gamma' and r['set'] == 'stacks/test' else r for r in tables[0]]
    assert '| gamma [!] |' in readme_table.figures(spoilt) and '[!] failed on some pictures' in readme_table.figures(spoilt)


def test_rows_of_methods_that_are_not_measured_again_stay():
    row = {'set': 'a', 'mae': '.1', 'delta_mae': '.02', 'p_mae': '.5'}
    old = [{**row, 'method': m, 'set': s} for s in 'ab' for m in ('own', 'old')]
    new = [{**row, 'method': m, 'set': s, 'mae': '.2'} for s in 'ab' for m in ('own', 'zero')]
    rows = main_table.carried_over(old, new)
    assert [(r['set'], r['method'], r['mae'], r['p_mae']) for r in rows] == [
        (s, m, mae, p) for s in 'ab' for m, mae, p in (('own', '.2', '.5'), ('zero', '.2', '.5'), ('old', '.1', ''))]
    assert all(r['delta_mae'] == '' for r in rows if r['method'] == 'old') and main_table.carried_over([], new) == new


def test_what_is_no_folder_of_trained_networks_is_named(tmp_path, capsys):
    assert main_table.main(['--sets', str(tmp_path), '--trained', str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
