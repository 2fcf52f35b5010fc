import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_wavelet
from datasets.photographs import Photographs, list_images
from datasets.sampler import StepSampler
from exposure import heatmap
from models import load_model
from models.checkpoint import load_training_state
from models.grey import luma
from test_iea40k import make_set
from tests_support import SMALL

ROOT = Path(__file__).resolve().parent.parent
SMALL_RUN = ['--sizes', '32', '40', '--val-size', '48', '--workers', '0', '--threads', '1', '--device', 'cpu']
TINY = ['--config', 'width=8', '--config', 'down=1', '--config', 'middle=1', '--config', 'levels=3', '--config', 'structure_widths=2,2,2', '--config',
        'token_width=8', '--config', 'heads=1', *SMALL_RUN]


@pytest.fixture
def pairs(tmp_path):
    make_set(tmp_path / 'set', scenes=4)
    return ['--data', str(tmp_path / 'set'), '--train-csv', str(tmp_path / 'set/all.csv'), '--val-csv', str(tmp_path / 'set/all.csv')]


def run(*args):
    return train_wavelet.main([str(a) for a in args])


def log_of(out):
    rows = list(csv.DictReader(open(out / 'log.csv')))
    return [{k: v for k, v in r.items() if k not in ('pictures_per_second', 'minutes')} for r in rows]


def refusal(capsys, *args):
    """The one line in which the arguments are refused."""
    with pytest.raises(SystemExit) as end:
        train_wavelet.get_args([str(a) for a in args])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 2 and '\n' not in error
    return error


def test_help_says_every_default(capsys):
    with pytest.raises(SystemExit):
        train_wavelet.get_args(['--help'])
    text = ' '.join(capsys.readouterr().out.split())
    assert '(paper: 3e-05, default: 0.001)' in text and '(paper: none, default: 128 256 256)' in text
    assert 'None' not in text and 'default: False' not in text


def test_windows_are_as_large_as_asked_for(capsys, tmp_path, pairs):
    for value in ('0', '1.5', 'nan'):
        assert 'accepted are numbers above 0, up to 1' in refusal(capsys, *pairs, '--out', tmp_path / 'out', '--min-window', value)
    (tmp_path / 'photos').mkdir()
    Image.new('RGB', (40, 40)).save(tmp_path / 'photos/photo.png')
    args = train_wavelet.get_args([*pairs, '--photos', str(tmp_path / 'photos'), '--out', 'x', '--min-window', '1'])
    _, parts, _ = train_wavelet.training_loader(args, 0, 1, 0, 1)
    assert [p.min_window for p in parts] == [1, 1]
    args.cache = True
    assert train_wavelet.training_loader(args, 0, 1, 0, 1)[1][1].min_window == 1


def test_a_run_leaves_what_it_promises(tmp_path, pairs):
    out = tmp_path / 'out'
    assert run(*pairs, '--out', out, '--epochs', 2, '--batch-size', 4, *TINY) == 0
    assert {p.name for p in out.iterdir()} == {'last.pt', 'best.safetensors', 'log.csv', 'curves.png', 'tensorboard'}
    rows = log_of(out)
    assert [r['step'] for r in rows] == ['2', '4'] and all(np.isfinite(float(r['loss'])) and float(r['set_mae']) < 1 for r in rows)
    model = load_model(out / 'best.safetensors')
    assert model.config.width == 8 and 'validation' in model.provenance


@pytest.mark.parametrize('schedule, network', [('cosine', TINY), ('step', TINY), ('cosine', [*SMALL_RUN, '--model', 'tone_curve'])])  # the last has dropout
def test_resume_is_bit_for_bit(tmp_path, pairs, schedule, network):
    common = [*pairs, '--batch-size', 4, '--schedule', schedule, '--warmup', 2, '--ema', 0.9, *network]
    assert run(*common, '--out', tmp_path / 'whole', '--epochs', 4) == 0
    # interrupted: the same run killed after its second epoch
    stop = train_wavelet.save_training_state

    class Killed(Exception):
        pass

    def save_then_die(path, state):
        stop(path, state)
        if state['step'] == 4:
            raise Killed
    train_wavelet.save_training_state = save_then_die
    try:
        with pytest.raises(Killed):
            run(*common, '--out', tmp_path / 'parts', '--epochs', 4)
    finally:
        train_wavelet.save_training_state = stop
    assert run(*common, '--out', tmp_path / 'parts', '--epochs', 4, '--resume', 'auto') == 0
    assert log_of(tmp_path / 'parts') == log_of(tmp_path / 'whole')
    a, b = (load_training_state(tmp_path / n / 'last.pt') for n in ('whole', 'parts'))
    for part in ('model', 'ema'):
        assert all(torch.equal(a[part][k], b[part][k]) for k in a[part])
    for k, s in a['optimizer']['state'].items():
        assert all(torch.equal(s[n], b['optimizer']['state'][k][n]) for n in s)


def test_photographs_are_simulated_on_the_fly(tmp_path, pairs):
    out = tmp_path / 'out'
    common = ['--photos', ROOT / 'img_to_pred', *pairs, '--batch-size', 4, *TINY]
    assert run(*common, '--out', out, '--epochs', 1) == 0
    assert len(log_of(out)) == 1
    assert run(*common, '--out', tmp_path / 'mixed', '--epochs', 1, '--mix', 2, 2) == 0
    with pytest.raises(SystemExit):
        run(*common, '--out', out, '--mix', 3, 2)


@pytest.mark.parametrize('flags', [['--amp', 'bf16'], ['--loss', 'l2', '--level-weight', 1, '--ema', 0], ['--accumulate', 2], ['--ssim-weight', 0.1], ['--cache'],
                                   ['--without', 'dwt'], ['--without', 'structure'], ['--without', 'lightness']])
def test_flags(tmp_path, pairs, flags):
    assert run(*pairs, '--out', tmp_path / 'out', '--epochs', 1, '--batch-size', 4, *TINY, *flags) == 0


def test_training_learns(tmp_path, pairs):
    out = tmp_path / 'out'
    assert run(*pairs, '--out', out, '--epochs', 40, '--val-every', 40, '--batch-size', 4, '--lr', 1e-2, '--warmup', 0, *TINY) == 0
    rows = log_of(out)
    assert float(rows[-1]['loss']) < 0.6 * float(rows[0]['loss'])


def test_max_minutes_ends_resumable(tmp_path, pairs):
    out = tmp_path / 'out'
    assert run(*pairs, '--out', out, '--epochs', 4, '--batch-size', 4, '--max-minutes', 1e-9, *TINY) == 0
    assert load_training_state(out / 'last.pt')['step'] == 1
    assert run(*pairs, '--out', out, '--epochs', 4, '--batch-size', 4, '--resume', 'auto', *TINY) == 0
    assert load_training_state(out / 'last.pt')['step'] == 8


@pytest.mark.parametrize('times', [1, 2])
def test_ctrl_c_stops_after_the_step_and_at_once_when_repeated(tmp_path, pairs, monkeypatch, times):
    def interrupted(pred, residual, reduction):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return (pred - residual).abs()
    monkeypatch.setitem(train_wavelet.LOSSES, 'l1', interrupted)
    handlers, out = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], tmp_path / 'out'
    with pytest.raises(KeyboardInterrupt) if times > 1 else contextlib.nullcontext():
        assert run(*pairs, '--out', out, '--epochs', 4, '--batch-size', 4, *TINY) == 0
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    if times == 1:  # before the first validation there are the last weights
        assert load_training_state(out / 'last.pt')['step'] == 1 and load_model(out / 'best.safetensors').provenance == {'step': 1}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='needs process groups')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_leaves_data_workers_to_their_work(tmp_path, pairs, number):
    out = tmp_path / 'out'
    spawned = ('import multiprocessing, sys; multiprocessing.set_start_method("spawn"); import train_wavelet; '
               'sys.exit(train_wavelet.main(sys.argv[1:]))')
    command = [sys.executable, '-c', spawned, *pairs, '--out', str(out), '--batch-size', '4', '--accumulate', '32', '--epochs', '10000',
               '--val-every', '10000', *TINY, '--workers', '1']
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not (out / 'last.pt').exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.2)  # within the second step
    os.killpg(process.pid, number)  # as a terminal does, and timeout
    assert 'Traceback' not in process.communicate()[1] and process.returncode == 0


def test_a_run_without_patience_left_is_not_trained_further(tmp_path, pairs):
    common = [*pairs, '--out', tmp_path / 'o', '--epochs', 4, '--batch-size', 4, '--lr', 0, '--ema', 0, '--patience', 1, *TINY]
    for resume in ([], ['--resume', 'auto']):
        assert run(*common, *resume) == 0
        assert load_training_state(tmp_path / 'o/last.pt')['step'] == 4  # the second validation was not better


def test_the_best_of_other_pictures_is_forgotten_on_resuming(tmp_path, pairs):
    rows = (tmp_path / 'set/all.csv').read_text().splitlines()
    (tmp_path / 'set/few.csv').write_text('\n'.join(rows[:3]) + '\n')
    common = ['--data', tmp_path / 'set', '--train-csv', tmp_path / 'set/all.csv', '--batch-size', 8, '--lr', 0, '--ema', 0, *TINY]
    assert run(*common, '--val-csv', tmp_path / 'set/all.csv', '--out', tmp_path / 'o', '--epochs', 1) == 0
    state = load_training_state(tmp_path / 'o/last.pt')
    torch.save({**state, 'best': 0.0}, tmp_path / 'o/last.pt')  # which nothing beats
    assert run(*common, '--val-csv', tmp_path / 'set/few.csv', '--out', tmp_path / 'o', '--epochs', 2, '--resume', 'auto') == 0
    assert load_model(tmp_path / 'o/best.safetensors').provenance['step'] == 2
    assert run(*common, '--val-csv', tmp_path / 'set/few.csv', '--out', tmp_path / 'o', '--epochs', 3, '--resume', 'auto') == 0
    assert load_model(tmp_path / 'o/best.safetensors').provenance['step'] == 2  # the same pictures: no better, so it stays
    assert run(*common, '--val-csv', tmp_path / 'set/few.csv', '--out', tmp_path / 'new', '--epochs', 4, '--resume', tmp_path / 'o/last.pt') == 0
    assert 'validation' in load_model(tmp_path / 'new/best.safetensors').provenance


def test_minutes_go_on_where_a_run_was_stopped(tmp_path, pairs):
    common = [*pairs, '--out', tmp_path / 'o', '--epochs', 1, '--batch-size', 4, *TINY]
    assert run(*common, '--max-minutes', 1e-9) == 0
    state = load_training_state(tmp_path / 'o/last.pt')
    assert 0 < state['minutes'] < 5
    torch.save({**state, 'minutes': 100.0}, tmp_path / 'o/last.pt')
    assert run(*common, '--resume', 'auto') == 0
    assert 100 < float(list(csv.DictReader(open(tmp_path / 'o/log.csv')))[-1]['minutes']) < 105


def test_a_state_of_another_network_is_refused(tmp_path, pairs, capsys):
    common = [*pairs, '--out', tmp_path / 'o', '--batch-size', 8, *TINY]
    assert run(*common, '--epochs', 1, '--wavelet', 'db4') == 0
    assert 'another run (one with wavelet=db4)' in fault(capsys, *common, '--epochs', 2, '--resume', 'auto')  # its weights have the same shapes
    assert run(*common, '--epochs', 2, '--wavelet', 'db4', '--resume', 'auto') == 0


def test_a_picture_that_cannot_be_validated_is_named(tmp_path, pairs, capsys):
    (tmp_path / 'set/label/validity').mkdir()
    np.save(tmp_path / 'set/label/validity/s1_P1.npy', np.repeat(np.arange(256)[None] % 11 < 10, 256, 0))
    error = fault(capsys, *pairs, '--out', tmp_path / 'o', '--epochs', 1, '--batch-size', 8, *TINY)
    assert 'set: s1_P1.png: a mask without any whole 11x11 window' in error
    (tmp_path / 'set/IEA_img/s1_P1.png').unlink()  # known before the first step
    assert 's1_P1.png: no such file' in fault(capsys, *pairs, '--out', tmp_path / 'lost', '--epochs', 1, '--batch-size', 8, *TINY)
    assert not (tmp_path / 'lost/last.pt').exists()


def test_init_starts_from_weights(tmp_path, pairs):
    assert run(*pairs, '--out', tmp_path / 'a', '--epochs', 1, '--batch-size', 4, *TINY) == 0
    assert run(*pairs, '--out', tmp_path / 'b', '--epochs', 1, '--batch-size', 4, '--init', tmp_path / 'a/best.safetensors', '--lr', 0,
               '--ema', 0, *TINY) == 0
    a, b = (load_model(tmp_path / n / 'best.safetensors').state_dict() for n in 'ab')
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_released_weights_are_fine_tuned(tmp_path, pairs):
    """The authors' network trains here, and its fine-tuned weights load again (random weights stand in for theirs)."""
    common = [*pairs, '--epochs', 1, '--batch-size', 8, '--sizes', 32, '--val-size', 32, '--workers', 0, '--threads', 1, '--device', 'cpu']
    assert run(*common, '--model', 'released', '--out', tmp_path / 'a') == 0
    assert run(*common, '--init', tmp_path / 'a/best.safetensors', '--out', tmp_path / 'b', '--lr', 0, '--ema', 0) == 0
    a, b = (load_model(tmp_path / n / 'best.safetensors') for n in 'ab')
    assert type(a).__name__ == 'ReleasedWaveletNet' and all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def fault(capsys, *args):
    assert run(*args) == 2
    error = capsys.readouterr().err.strip()
    assert '\n' not in error
    return error


def test_faults_end_in_one_line(tmp_path, pairs, capsys):
    common = ['--epochs', 1, '--batch-size', 4, *TINY]
    assert 'no such file' in fault(capsys, '--data', tmp_path / 'set', '--train-csv', tmp_path / 'no.csv', '--out', tmp_path / 'o', *common)
    assert 'no such folder' in fault(capsys, '--photos', tmp_path / 'no', '--out', tmp_path / 'o', *common)
    assert 'no.safetensors' in fault(capsys, *pairs, '--out', tmp_path / 'o', '--init', tmp_path / 'no.safetensors', *common)
    (tmp_path / 'bad.pt').write_text('no state')
    assert 'bad.pt' in fault(capsys, *pairs, '--out', tmp_path / 'o', '--resume', tmp_path / 'bad.pt', *common)
    label = tmp_path / 'set/label/exposure_condition/s1_P1.npy'
    np.save(label, np.full((256, 256), np.nan, np.float32))
    assert 's1_P1.npy' in fault(capsys, *pairs, '--out', tmp_path / 'o', *common)


def test_bad_samples_are_skipped_only_when_asked(tmp_path, pairs, capsys):
    (tmp_path / 'set/IEA_img/s2_N1.png').write_bytes((tmp_path / 'set/IEA_img/s2_N1.png').read_bytes()[:200])
    common = ['--data', tmp_path / 'set', '--train-csv', tmp_path / 'set/all.csv', '--out', tmp_path / 'o', '--epochs', 2, '--batch-size', 4, *TINY]
    assert 's2_N1.png' in fault(capsys, *common)
    assert run(*common, '--skip-bad') == 0
    error = capsys.readouterr().err
    assert 's2_N1.png' in error and '2 samples could not be read and were skipped' in error


def test_bad_photographs_are_skipped_only_when_asked(tmp_path, pairs, capsys):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name in 'abc':
        Image.new('RGB', (40, 40), 'grey').save(folder / f'{name}.png')
    (folder / 'b.png').write_bytes((folder / 'b.png').read_bytes()[:60])
    common = ['--photos', folder, '--out', tmp_path / 'o', '--steps', 2, '--batch-size', 2, *TINY]
    assert 'b.png' in fault(capsys, *common)
    assert run(*common, '--skip-bad') == 0
    error = capsys.readouterr().err
    assert error.count('b.png') == 1 and '1 samples could not be read and were skipped' in error
    assert [f.name for f in Photographs([folder], 32, skip_bad=True).files] == ['a.png', 'c.png']
    for name in 'ac':
        (folder / f'{name}.png').write_text('no picture')
    assert 'none of 3 photographs could be read' in fault(capsys, *common, '--out', tmp_path / 'p', '--skip-bad')
    assert 'does not go with --cache' in refusal(capsys, *pairs, '--out', 'o', '--skip-bad', '--cache')


def test_what_is_no_photograph_is_left_out(tmp_path):
    for name in ('a.png', 'sub/b.png', '._a.png', '.thumbnails/a.png', 'a_exposure.png', 'a_exposure_overlay.png', '_exposure_legend.png'):
        (tmp_path / '.photos' / name).parent.mkdir(parents=True, exist_ok=True)  # that the folder itself is hidden is its owner's choice
        own = heatmap.encode_png(np.zeros((2, 2), np.uint8), heatmap.color_table(), '{}')
        (tmp_path / '.photos' / name).write_bytes(own if 'exposure' in name else b'')
    (tmp_path / '.photos/long_exposure.png').write_bytes(b'')  # a name like a heat map's, and none
    assert [p.name for p in list_images(tmp_path / '.photos')] == ['a.png', 'long_exposure.png', 'b.png']


def test_flags_that_would_be_ignored_are_refused(tmp_path, capsys):
    assert f'--data {tmp_path} has no CSV' in refusal(capsys, '--photos', tmp_path, '--data', tmp_path, '--out', tmp_path / 'o')
    head = ['--score-head', tmp_path / 'h', '--init', 'w', '--data', tmp_path, '--train-csv', tmp_path / 'c']
    for flags in (['--out', tmp_path / 'o'], ['--photos', tmp_path], ['--resume', 'auto']):
        assert 'not together with --out, --photos or --resume' in refusal(capsys, *head, *flags)


@pytest.mark.parametrize('model, setting', [('encoder_decoder', 'widths=4,8'), ('tone_curve', 'knots=1'), ('mslt', 'levels=0')])
def test_impossible_settings_are_one_line(tmp_path, pairs, capsys, model, setting):
    error = fault(capsys, *pairs, '--out', tmp_path / 'o', '--steps', 1, '--batch-size', 4, *SMALL_RUN, '--model', model, '--config', setting)
    assert setting.split('=')[0] in error and 'accepted' in error


def test_validation_sets_have_names_of_their_own(tmp_path, pairs, capsys):
    def names(*arguments):
        args = train_wavelet.get_args(['--photos', 'x', '--out', 'y', *map(str, arguments)])
        return list(train_wavelet.validation_sets(args))
    data, other = tmp_path / 'set', tmp_path / 'other'
    assert names('--data', data, '--val-csv', 'a.csv') == ['set']
    assert names('--data', data, '--data', other, '--val-csv', 'a.csv', '--val-csv', 'a.csv') == ['set', 'other']
    assert names('--data', data, '--val-csv', 'a.csv', '--val-csv', 'b.csv') == ['set/a', 'set/b']
    assert names('--data', data, '--data', other, '--data', other / 'set', *'--val-csv a.csv --val-csv a.csv --val-csv b.csv'.split()) == \
        ['set/a', 'other', 'set/b']
    assert 'second validation set with the name set/all' in fault(capsys, *pairs, '--val-csv', data / 'all.csv', '--out', tmp_path / 'o', *TINY)
    (data / 'few.csv').write_text(''.join((data / 'all.csv').read_text().splitlines(keepends=True)[:3]))
    common = [*pairs, '--out', tmp_path / 'o', '--batch-size', 8, *TINY]
    assert run(*common, '--epochs', 1) == 0
    assert run(*common, '--epochs', 2, '--val-csv', data / 'few.csv', '--resume', 'auto') == 0  # the log and its curves bear both
    first, second = log_of(tmp_path / 'o')
    assert first['set_mae'] and not first['set/few_mae'] and not second['set_mae'] and second['set/all_mae'] != second['set/few_mae']


def test_every_source_gives_to_every_batch(tmp_path, capsys):
    def shares(photographs, lengths, *arguments):
        csvs = [word for n in range(len(lengths)) for word in ('--train-csv', f'{n}.csv')]
        args = train_wavelet.get_args(['--data', 'd', *csvs, *(['--photos', 'x'] * photographs), '--out', 'y', *map(str, arguments)])
        part = Photographs.__new__(Photographs)
        return train_wavelet.shares_of_batch(args, [part] * photographs + [range(n) for n in lengths])
    assert shares(0, [5, 10000]) == [1, 15] and shares(0, [10000, 5, 5]) == [14, 1, 1]
    assert shares(1, [10000, 1]) == [11, 4, 1] and shares(1, [4], '--batch-size', 2) == [1, 1]
    assert shares(0, [300, 100]) == [12, 4] and shares(1, [7, 7]) == [12, 2, 2]  # in proportion
    assert '3 sources' in refusal(capsys, '--data', 'd', '--train-csv', 'a', '--train-csv', 'b', '--photos', 'x', '--out', 'y', '--batch-size', 2)
    assert '--mix' in refusal(capsys, '--data', 'd', '--train-csv', 'a', '--photos', 'x', '--out', 'y', '--mix', 0, 16)


@pytest.mark.parametrize('flags, words', [
    (['--val-every', 0], '--val-every: 0'), (['--steps', 0], '--steps: 0'), (['--late-sizes', 64, 16], '--late-sizes: 16'),
    (['--model', 'mslt', '--without', 'dwt'], 'not of mslt'), (['--model', 'zerodce', '--wavelet', 'db4'], 'not of zerodce'),
    (['--model', 'released', '--wavelet', 'db4'], 'not of released'), (['--model', 'released', '--config', 'width=8'], 'no settings'),
    (['--clip', -1], '--clip: -1'), (['--lr', 'nan'], '--lr: nan'), (['--ema', 1], '--ema: 1'), (['--warmup', -5], '--warmup: -5'),
    (['--config', 'width=wide'], 'width=wide'), (['--nothing'], '--nothing')])
def test_wrong_flags_are_refused(flags, words, capsys):
    assert words in refusal(capsys, '--photos', 'x', '--out', 'y', *flags)


def test_what_cannot_be_run_is_named(tmp_path, pairs, capsys):
    common = [*pairs, '--out', tmp_path / 'o', '--epochs', 1, '--batch-size', 8, *TINY]
    assert 'foo' in fault(capsys, *common, '--device', 'foo')
    assert 'cuda:99' in fault(capsys, *common, '--device', 'cuda:99')
    for setting, words in (('heads=3', 'heads'), ('width=-8', 'width is -8'), ('heads=0', 'heads is 0'), ('grid=0', 'grid is 0'), ('middle=1.5', "'middle': 1.5"), ('widht=8', 'widht')):
        assert words in fault(capsys, *common, '--config', setting)
    assert run(*common, '--ema', 0) == 0
    assert 'another run (one with --ema 0)' in fault(capsys, *common, '--ema', 0.9, '--resume', 'auto')
    torch.save([1, 2], tmp_path / 'list.pt')
    assert 'another run' in fault(capsys, *common, '--resume', tmp_path / 'list.pt')
    assert 'another run (one with --optimizer adamw)' in fault(capsys, *common, '--ema', 0, '--optimizer', 'sgd', '--resume', 'auto')
    before = (tmp_path / 'o/last.pt').read_bytes()
    assert 'last.pt is of an earlier run: --resume auto goes on with it' in fault(capsys, *common)
    assert (tmp_path / 'o/last.pt').read_bytes() == before


def test_stopped_within_an_epoch_the_log_is_the_same(tmp_path, pairs):
    common = [*pairs, '--batch-size', 2, '--epochs', 1, *TINY]  # four steps an epoch
    assert run(*common, '--out', tmp_path / 'whole') == 0
    for _ in range(4):
        assert run(*common, '--out', tmp_path / 'parts', '--max-minutes', 1e-9, '--resume', 'auto') == 0  # a step at a time
    assert log_of(tmp_path / 'parts') == log_of(tmp_path / 'whole') and len(log_of(tmp_path / 'whole')) == 1


def test_weight_decay_is_that_of_the_flags_after_a_resume(tmp_path, pairs):
    common = [*pairs, '--out', tmp_path / 'o', '--batch-size', 4, *TINY]
    assert run(*common, '--epochs', 1) == 0
    assert run(*common, '--epochs', 2, '--weight-decay', 0.5, '--resume', 'auto') == 0
    groups = load_training_state(tmp_path / 'o/last.pt')['optimizer']['param_groups']
    assert [g['weight_decay'] for g in groups] == [0.5, 0.0]


def test_a_csv_is_not_paired_with_another_folder(capsys):
    common = ['--out', 'y', '--data', 'a', '--data', 'b']
    assert '--data b has no CSV' in refusal(capsys, *common, '--train-csv', 'a/t.csv', '--val-csv', 'v.csv')
    assert 'b/v.csv lies in --data b, but would be paired with --data a' in refusal(
        capsys, *common, '--train-csv', 'a/t.csv', '--train-csv', 'b/t.csv', '--val-csv', 'b/v.csv')
    args = train_wavelet.get_args([*common, '--train-csv', 'a/t.csv', '--train-csv', 'b/t.csv', '--val-csv', 'a/v.csv', '--val-csv', 'b/v.csv'])
    assert len(args.data) == 2


def test_init_brings_its_network(tmp_path, weights, capsys):
    def model(*flags):
        return train_wavelet.make_model(train_wavelet.get_args(['--photos', 'x', '--out', 'y', '--init', str(weights), *flags]))
    assert model().config == model('--config', f'width={SMALL.width}', '--model', 'p_ieanet').config == SMALL  # no contradiction
    for flags, words in ((['--wavelet', 'db4'], 'wavelet=db4'), (['--without', 'dwt'], 'use_dwt=False'), (['--config', 'width=64'], 'width=64'),
                         (['--model', 'mslt'], '--model is mslt')):
        with pytest.raises(ValueError, match=f'small.safetensors: .*{words}'):
            model(*flags)


def test_the_papers_single_level(tmp_path, pairs):
    one = ['--config', 'levels=1', '--config', 'structure_widths=8']
    assert run(*pairs, '--out', tmp_path / 'o', '--epochs', 1, '--batch-size', 8, *TINY, *one) == 0
    assert load_model(tmp_path / 'o/best.safetensors').config.structure_widths == (8,)


def test_paper_preset():
    args = train_wavelet.get_args(['--photos', 'x', '--out', 'y', '--preset', 'paper'])
    assert (args.optimizer, args.lr, args.schedule, args.batch_size, args.epochs, args.loss) == ('adam', 3e-5, 'step', 36, 30, 'l1')
    rates = [train_wavelet.learning_rate(epoch * 100, 3000, 100, args) for epoch in range(30)]
    assert np.allclose(rates, [3e-5] * 10 + [3e-6] * 10 + [3e-7] * 10)


def test_ema_is_its_recurrence(tmp_path, pairs):
    states, save = [], train_wavelet.save_training_state
    train_wavelet.save_training_state = lambda path, state: (states.append({k: {n: t.clone() for n, t in state[k].items()}
                                                                            for k in ('model', 'ema')}), save(path, state))
    try:  # one step an epoch: every step's weights are seen
        run(*pairs, '--out', tmp_path / 'o', '--epochs', 4, '--batch-size', 8, '--ema', 0.2, '--warmup', 0, *TINY)
    finally:
        train_wavelet.save_training_state = save
    for name in states[0]['model']:
        expected = states[0]['model'][name]  # the average starts as the weights after the first step
        for step, s in enumerate(states[1:], 1):
            decay = min(0.2, (1 + step) / (10 + step))  # .18 at the first step
            expected = decay * expected + (1 - decay) * s['model'][name]
        assert torch.allclose(states[-1]['ema'][f'module.{name}'], expected, atol=1e-6), name


def test_non_finite_loss_names_step_and_pictures(tmp_path, pairs, capsys, monkeypatch):
    monkeypatch.setitem(train_wavelet.LOSSES, 'l1', lambda p, r, reduction: (p - r) * float('nan'))
    error = fault(capsys, *pairs, '--out', tmp_path / 'o', '--epochs', 1, '--batch-size', 4, *TINY)
    assert 'nan at step 0' in error and '.png' in error and 'learning rate' in error


def test_sampler_is_a_function_of_the_step():
    whole = list(StepSampler([10, 7], [3, 1], [32, 64], 5, 0, 20))
    assert list(StepSampler([10, 7], [3, 1], [32, 64], 5, 8, 20)) == whole[8:]
    first_pass = [k[0] for batch in whole for k in batch[:3]][:10]
    assert sorted(first_pass) == list(range(10)) and all(10 <= b[3][0] < 17 for b in whole)
    assert len({k[1] for b in whole for k in b}) == 80  # every sample has its own seed
    halves = [list(StepSampler([10, 7], [3, 1], [32, 64], 5, 0, 20, rank, 2)) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves)] == [sorted(b) for b in whole]
    with pytest.raises(ValueError, match='cannot be shared'):
        StepSampler([10], [3], [32], 0, 0, 1, 0, 2)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, pairs):
    """The same batch shared by two processes: the same weights (SGD, 20 steps) and validation figures, and one set of files."""
    odd = tmp_path / 'set/odd.csv'  # 7 pictures do not divide by two
    odd.write_text(''.join((tmp_path / 'set/all.csv').read_text().splitlines(keepends=True)[:8]))
    common = [*pairs[:-1], str(odd), '--epochs', '10', '--batch-size', '4', '--optimizer', 'sgd', '--ema', '0', '--lr', '0.01', *TINY]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    for name, launcher in (('one', [sys.executable]), ('two', [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'])):
        subprocess.run([*launcher, str(ROOT / 'train_wavelet.py'), *common, '--out', str(tmp_path / name)], check=True, env=env, timeout=300)
    a, b = (load_training_state(tmp_path / n / 'last.pt')['model'] for n in ('one', 'two'))
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-6
    assert sorted(p.name for p in (tmp_path / 'one').iterdir()) == sorted(p.name for p in (tmp_path / 'two').iterdir())
    assert len(list((tmp_path / 'two/tensorboard').iterdir())) == 1
    for r, s in zip(log_of(tmp_path / 'one'), log_of(tmp_path / 'two')):
        assert float(r['set_mae']) == pytest.approx(float(s['set_mae']), abs=1e-6)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path, pairs):
    """SIGKILL at 20 random moments, half of them right while the state is being written."""
    import random
    common = [*pairs, '--epochs', '30', '--batch-size', '4', '--val-every', '30', *TINY]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    subprocess.run([sys.executable, str(ROOT / 'train_wavelet.py'), *common, '--out', str(tmp_path / 'whole')], check=True, env=env)
    rng, out, kills = random.Random(0), tmp_path / 'parts', 0
    while kills < 20:
        run = subprocess.Popen([sys.executable, str(ROOT / 'train_wavelet.py'), *common, '--out', str(out), '--resume', 'auto'], env=env,
                               stdout=subprocess.PIPE, text=True)
        run.stdout.readline()  # it has started to train
        if kills % 2:
            deadline = time.time() + 20
            while not list(out.glob('.last.pt.*.tmp')) and run.poll() is None and time.time() < deadline:
                pass
        else:
            time.sleep(rng.uniform(0, 0.5))
        if run.poll() is not None:
            break  # done before it could be killed again
        run.send_signal(signal.SIGKILL)
        run.wait()
        kills += 1
        if (out / 'last.pt').exists():
            load_training_state(out / 'last.pt')  # whole
    subprocess.run([sys.executable, str(ROOT / 'train_wavelet.py'), *common, '--out', str(out), '--resume', 'auto'], check=True, env=env)
    print(f'{kills} kills')
    a, b = (load_training_state(tmp_path / n / 'last.pt') for n in ('whole', 'parts'))
    assert a['step'] == b['step'] == 60
    assert all(torch.equal(a['model'][k], b['model'][k]) for k in a['model'])
    assert log_of(tmp_path / 'whole') == log_of(out)


@pytest.mark.skipif(sys.platform == 'win32', reason='needs resource limits')
def test_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, pairs):
    common = [*pairs, '--batch-size', '4', '--out', str(tmp_path / 'o'), '--resume', 'auto', *TINY]
    assert run(*common, '--epochs', 1) == 0
    before = (tmp_path / 'o/last.pt').read_bytes()
    limited = ('import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); import train_wavelet; '
               f'resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2); sys.exit(train_wavelet.main(sys.argv[1:]))')
    done = subprocess.run([sys.executable, '-c', limited, *common, '--epochs', '2'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and 'File too large' in done.stderr and 'Traceback' not in done.stderr
    assert (tmp_path / 'o/last.pt').read_bytes() == before and not list((tmp_path / 'o').glob('.*.tmp'))


def test_late_sizes_take_the_last_fifth():
    sampler = StepSampler([10], [2], [32], 5, 0, 20, late_sizes=[64])
    assert [keys[0][2] for keys in sampler] == [32] * 16 + [64] * 4


def test_an_exposed_pair_keeps_its_ideal():
    ideal, image = (torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(s)).mul(255).round() / 255 for s in (0, 1))
    batch = {'image': image, 'residual': luma(ideal) - luma(image), 'mask': torch.ones(4, 1, 40, 40), 'simulate': torch.tensor([0, 0, 1, 0]).bool()}
    batch['residual'][2] = 0
    for jitter in (0, 1):
        new, residual, _ = train_wavelet.expose_batch(batch, torch.device('cpu'), 3, jitter)
        pairs = [0, 1, 3]
        assert torch.allclose(luma(new[pairs]) + residual[pairs], luma(ideal[pairs]), atol=1e-6)
        assert torch.equal(new[pairs], image[pairs]) != bool(jitter)
        assert torch.allclose(luma(new[2:3]) + residual[2:3], luma(image[2:3]), atol=1e-6), 'a photograph is its own ideal'
        assert not torch.equal(new[2], image[2])


def test_a_csv_of_pairs_stands_for_its_references(tmp_path, pairs):
    photographs = Photographs([tmp_path / 'set/all.csv'], side=32)
    assert [p.parent.name for p in photographs.files] == ['global_best'] * 4
    assert run('--photos', tmp_path / 'set/all.csv', *pairs, '--mix', 2, 2, '--out', tmp_path / 'out', '--epochs', 1, '--batch-size', 4, *TINY) == 0


def test_resident_batches_are_those_of_the_data_workers(tmp_path, pairs):
    """Same keys, same windows, mirrored or not, smaller and larger than the window; masks too."""
    validity = tmp_path / 'set/label/validity'
    validity.mkdir()
    for i, label in enumerate(sorted((tmp_path / 'set/label/exposure_condition').iterdir())):
        np.save(validity / label.name, (np.random.default_rng(i).random((256, 256)) > 0.001).astype(np.uint8))
    common = ['--photos', str(ROOT / 'img_to_pred'), *pairs, '--out', 'x', '--mix', '3', '5', '--batch-size', '8', '--workers', '0', '--sizes', '64', '200', '320']
    plain, resident = (train_wavelet.training_loader(train_wavelet.get_args(common + more), 0, 12, 0, 1)[0] for more in ([], ['--resident']))
    for a, b in zip(plain, resident, strict=True):
        assert a['img_id'] == b['img_id'] and torch.equal(a['simulate'], b['simulate']) and b['skipped'] == []
        where = a['simulate']
        assert (a['image'] - b['image'])[where].abs().max() <= 1.001 / 255  # rounded to 8 bit, rarely the other way
        assert (a['image'] - b['image'])[where].abs().mean() < 1e-5
        assert (a['image'] - b['image'])[~where].abs().max() < 1e-5 and (a['residual'] - b['residual']).abs().max() < 1e-5
        assert (a['mask'] != b['mask']).float().mean() < 1e-3 and 0 < a['mask'][~where].mean() < 1


def test_resident_run(tmp_path, pairs, capsys):
    out = tmp_path / 'out'
    assert run('--photos', ROOT / 'img_to_pred', *pairs, '--out', out, '--steps', 3, '--batch-size', 4, '--resident', *TINY) == 0
    assert np.isfinite(float(log_of(out)[-1]['loss']))
    assert '--resident' in refusal(capsys, *pairs, '--out', tmp_path / 'x', '--skip-bad', '--resident')
