"""What the shipped weights promise on the sample pictures; and that what the README says can be run."""
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.images import read_image, resize_rgb, to_tensor
from exposure import Predictor
from models import load_model

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / 'checkpoints' / 'p_ieanet.safetensors'
SAMPLES = sorted(p.stem for p in (ROOT / 'img_to_pred').glob('*.jpg'))


@pytest.fixture(scope='module')
def maps(tmp_path_factory):
    """The heat maps and raw maps of a plain run over the samples, made in another folder."""
    out = tmp_path_factory.mktemp('maps')
    subprocess.run([sys.executable, str(ROOT / 'make_heatmap.py'), '--out', str(out), '--save-npy'], check=True, cwd=out)
    return out


def test_samples_cover_what_people_meet():
    assert len(SAMPLES) >= 6 and (ROOT / 'img_to_pred/SOURCES.txt').read_text().count('.jpg') >= len(SAMPLES)


def test_one_heat_map_per_sample_of_its_size(maps):
    for name in SAMPLES:
        assert Image.open(maps / f'{name}_exposure.png').size == Image.open(ROOT / f'img_to_pred/{name}.jpg').size


def test_samples_are_judged_as_a_photographer_would(maps):
    r = {name: np.load(maps / f'{name}_exposure.npy').astype(float) for name in SAMPLES}
    assert r['underexposed'].mean() > 0.1
    assert r['overexposed'].mean() < -0.1
    assert abs(r['well_exposed'].mean()) < 0.06
    mixed = r['under_and_over']
    assert (mixed > 0.1).mean() > 0.1 and (mixed < -0.1).mean() > 0.1
    half = mixed.shape[1] // 2
    assert mixed[:, :half].mean() > 0.05 and mixed[:, half:].mean() < -0.05  # shade on the left, glare on the right


def test_colours_are_blue_under_and_red_over(maps):
    mean = {n: np.asarray(Image.open(maps / f'{n}_exposure.png').convert('RGB'), float).mean((0, 1)) for n in ('underexposed', 'overexposed')}
    assert mean['underexposed'][2] > mean['underexposed'][0] + 40 and mean['overexposed'][0] > mean['overexposed'][2] + 40


def test_small_and_few():
    model = load_model(CHECKPOINT)
    assert CHECKPOINT.stat().st_size < 6_000_000 and sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert {'data', 'recipe', 'figures'} <= set(model.provenance)


@torch.no_grad()
def test_half_precision():
    model, picture = load_model(CHECKPOINT), read_image(ROOT / 'img_to_pred/night.jpg')
    x = to_tensor(resize_rgb(picture, 256))[None]
    with torch.autocast('cpu', torch.bfloat16):
        half = model(x).float()
    assert (half - model(x)).abs().max() <= 0.02


def test_a_picture_and_its_half_size_copy_agree():
    predictor = Predictor(CHECKPOINT, device='cpu')
    for name in SAMPLES:
        picture = read_image(ROOT / f'img_to_pred/{name}.jpg')
        half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        assert abs(predictor.predict(picture).mean_residual - predictor.predict(half).mean_residual) <= 0.02


def test_readme_snippets_run(tmp_path):
    for code in re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S):
        code = code.replace("'img_to_pred/", f"'{ROOT}/img_to_pred/")  # it must work from any folder
        done = subprocess.run([sys.executable, '-c', f'import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}'], cwd=tmp_path,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def commands(text):
    """Lines of indented code that call one of our programs, without the pip part."""
    for line in re.findall(r'^    (.*(?:python|torchrun) .*)$', text, re.M):
        line = line.split('&&')[-1].strip()
        match = re.match(r'(?:python|torchrun\b.*?) (-m datasets\.\w+|-m exposure\.\w+|[\w/]+\.py)(.*)', line)
        if match:
            yield match.group(1).split(), match.group(2)


@pytest.mark.parametrize('page', ['README.md', 'docs/data.md'])
def test_documented_flags_exist(page):
    found, helps = list(commands((ROOT / page).read_text())), {}
    assert found
    for program, rest in found:
        words = rest.split()
        sub = [words[0]] if program[-1] == 'datasets.build' else []
        key = (*program, *sub)
        if key not in helps:
            done = subprocess.run([sys.executable, *key, '--help'], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, (key, done.stderr)
            helps[key] = done.stdout
        for flag in re.findall(r'--[a-z][a-z-]*', rest):
            assert re.search(rf'{flag}\b', helps[key]), f'{page}: {" ".join(key)} has no {flag}'
