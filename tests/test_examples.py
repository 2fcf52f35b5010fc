"""The examples and the snippets of docs/scores.md run, from another working directory."""
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'examples'))


def run(arguments, cwd):
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def photos(tmp_path):
    (tmp_path / 'photos').mkdir()
    for i in range(2):
        Image.linear_gradient('L').rotate(90 * i).convert('RGB').save(tmp_path / 'photos' / f'{i}.png')
    return tmp_path / 'photos'


def test_two_makers(tmp_path, weights):
    text = run([ROOT / 'examples/two_makers.py', '--checkpoint', weights], tmp_path)
    points = {name: int(score) for name, score in re.findall(r'^(maker_\w): (\d+)', text, re.M)}
    assert points.keys() == {'maker_a', 'maker_b'} and points['maker_b'] <= points['maker_a']


@pytest.mark.parametrize('program, options, message', [
    ('descend_exposure', ['--count', '0'], '--count: 0'), ('descend_exposure', ['--side', '16'], '--side: 16'),
    ('descend_exposure', ['--csv', 'none/out.csv'], 'none: no such folder'), ('descend_exposure', ['--csv', '.'], 'is a folder'),
    ('train_enhancer', ['--steps', '0'], '--steps: 0'), ('train_enhancer', ['--side', '16'], '--side: 16'),
    ('train_enhancer', ['--csv', 'none/out.csv'], 'none: no such folder'), ('train_enhancer', ['--limit', '-1'], '--limit: -1'),
    ('descend_exposure', [], 'bad.png'), ('train_enhancer', [], 'bad.png')])
def test_faults_end_in_one_line(tmp_path, weights, photos, capsys, monkeypatch, program, options, message):
    monkeypatch.chdir(tmp_path)
    if not options:
        (photos / 'bad.png').write_text('text')
    test = ['--test', str(photos)] if program == 'train_enhancer' else []
    with pytest.raises(SystemExit) as end:
        importlib.import_module(program).main(['--photos', str(photos), '--checkpoint', str(weights), *test, *options])
    said = capsys.readouterr()
    assert end.value.code == 2 and message in said.err and said.err.count('\n') == 1 and not said.out


@pytest.mark.slow
def test_two_makers_with_the_shipped_weights(tmp_path):
    text = run([ROOT / 'examples/two_makers.py'], tmp_path)
    assert '10 off for over-exposure' in text and '30 off for over-exposure' in text


@pytest.mark.slow
def test_descend_exposure(tmp_path, weights, photos):
    text = run([ROOT / 'examples/descend_exposure.py', '--photos', photos, '--checkpoint', weights, '--side', '32', '--steps', '3',
                '--csv', 'out.csv'], tmp_path)
    assert 'from -2 EV' in text and 'of 2 nearer' in text and len((tmp_path / 'out.csv').read_text().splitlines()) == 5


@pytest.mark.slow
@pytest.mark.parametrize('flags', [[], ['--unpaired']])
def test_train_enhancer(tmp_path, weights, photos, flags):
    text = run([ROOT / 'examples/train_enhancer.py', '--photos', photos, '--test', photos, '--checkpoint', weights, '--side', '32',
                '--steps', '3', '--weights', '0', '1', *flags], tmp_path)
    assert text.count('over 1 seeds') == 2


@pytest.mark.slow
def test_snippets_of_the_page_of_scores(tmp_path):
    for code in re.findall(r'```python\n(.*?)```', (ROOT / 'docs/scores.md').read_text(encoding='utf-8'), re.S):
        code = code.replace("'img_to_pred/", f"'{ROOT}/img_to_pred/")
        run(['-c', f'import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}'], tmp_path)
