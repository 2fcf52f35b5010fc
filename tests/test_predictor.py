"""The predictor: right size, right pixels, edges kept, nothing depends on neighbours, batch or threads."""
import functools
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.images import ImageError, to_tensor
from exposure import Predictor, score_map
from exposure.predictor import (DEFAULT_CHECKPOINT, Batcher, guided_coefficients, upsampled_strips,
                                working_size)
from models import PIEANet, PIEANetConfig
from tests_support import awake

TINY = dict(levels=2, width=8, down=(1,), middle=1, structure_widths=(4, 8), token_width=8, heads=2, grid=4,
            structure_grid=4, kernels=(3,))


class Constant(torch.nn.Module):
    """The same residual everywhere."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.full_like(x[:, :1], self.value)


class GreyIsIdealMinus(torch.nn.Module):
    """A residual with the picture's own detail: the ideal grey is .5 everywhere."""

    def forward(self, x):
        return 0.5 - (0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:])


def tiny(seed=0):
    torch.manual_seed(seed)
    return awake(PIEANet(PIEANetConfig(**TINY)))


def photo(height=120, width=200, seed=0, noise=6):
    """A picture with large areas, edges and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 220, (5, 7, 3), dtype=np.uint8))
    coarse = coarse.resize((width, height), Image.Resampling.NEAREST)
    pixels = np.asarray(coarse) + noise * rng.normal(0, 1, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def grey_of(picture):
    return np.asarray(picture.convert('L')).astype(np.float32) / 255


@pytest.mark.parametrize('size', [(1, 1), (1, 700), (700, 1), (31, 33), (256, 256), (257, 255), (20, 4000)])
def test_any_size(size):
    result = Predictor(model=tiny()).predict(photo(*size))
    assert result.residual.shape == size and result.residual.dtype == np.float32
    assert np.isfinite(result.residual).all() and np.abs(result.residual).max() <= 1
    ideal = result.residual + grey_of(photo(*size))
    assert ideal.min() >= -1e-6 and ideal.max() <= 1 + 1e-6


@pytest.mark.parametrize('height, width', [(1, 1), (30, 20000), (3000, 4000), (333, 500), (77, 76), (999, 3)])
def test_working_size(height, width):
    small = working_size(height, width, 256)
    assert max(small) == 256 and min(small) >= 32 and all(side % 8 == 0 for side in small)
    if min(height, width) / max(height, width) > 0.3:
        assert abs(np.log((small[0] / small[1]) / (height / width))) < 0.06


@pytest.mark.parametrize('upsample', ['guided', 'bilinear'])
@pytest.mark.parametrize('value', [0.0, 0.2, -0.15])
def test_a_flat_map_stays_flat(upsample, value):
    """Whatever the picture: zero stays zero, and a constant is limited only by the ideal's [0, 1]."""
    picture = photo()
    residual = Predictor(model=Constant(value), upsample=upsample).predict(picture).residual
    grey = grey_of(picture)
    expected = np.clip(grey + value, 0, 1) - grey if upsample == 'guided' else value
    assert np.abs(residual - expected).max() < 1e-5


def test_upsampling_follows_edges():
    """Truth known at full size: ideal grey .5, so the residual is the negative of the picture's grey."""
    picture = photo(900, 1200, noise=0)
    truth = 0.5 - grey_of(picture)
    error = {}
    for upsample in ('guided', 'bilinear'):
        residual = Predictor(model=GreyIsIdealMinus(), upsample=upsample).predict(picture).residual
        error[upsample] = np.abs(residual - truth).mean()
    assert error['guided'] < 0.5 * error['bilinear']


@pytest.mark.parametrize('shape, size', [((2, 5, 7), (40, 61)), ((1, 8, 8), (8, 8)), ((3, 32, 256), (5, 900)),
                                         ((1, 1, 1), (3, 4)), ((2, 40, 30), (7, 500))])
def test_strips_are_torch_bilinear(shape, size, monkeypatch):
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size=size, mode='bilinear')[0]
    for strip in (1, 130, 1 << 15):
        monkeypatch.setattr('exposure.predictor.STRIP', strip)
        result, rows = np.empty((shape[0], *size), np.float32), 0
        for top, bottom, part in upsampled_strips(maps, *size):
            assert top == rows
            result[:, top:bottom], rows = part, bottom
        assert rows == size[0]
        assert np.abs(result - expected.numpy()).max() < 1e-4


def test_guided_coefficients_against_the_definition():
    rng = np.random.default_rng(0)
    levels, residual, radius, eps = rng.integers(0, 256, (20, 24), np.uint8), rng.random((20, 24), np.float32), 2, 1e-2
    result = guided_coefficients(levels, residual, radius, eps)
    guide = levels / 255
    slopes, offsets = np.zeros_like(residual), np.zeros_like(residual)
    for y in range(4, 16):
        for x in range(4, 20):
            window = slice(y - radius, y + radius + 1), slice(x - radius, x + radius + 1)
            i, p = guide[window], residual[window]
            slopes[y, x] = ((i * p).mean() - i.mean() * p.mean()) / (i.var() + eps)
            offsets[y, x] = p.mean() - slopes[y, x] * i.mean()
    for y, x in ((9, 9), (7, 12)):
        window = slice(y - radius, y + radius + 1), slice(x - radius, x + radius + 1)
        assert abs(result[0, y, x] - slopes[window].mean()) < 1e-4
        assert abs(result[1, y, x] / 255 - offsets[window].mean()) < 1e-4


def test_guided_coefficients_of_a_bright_wall():
    """Hardly any variance far from zero: the differences of squares must keep their digits."""
    rng = np.random.default_rng(0)
    levels, residual = rng.integers(250, 256, (40, 50), np.uint8), rng.uniform(-0.3, 0.3, (40, 50)).astype(np.float32)
    slope, offset = guided_coefficients(levels, residual, 2, 1e-5)
    blur = functools.partial(cv2.blur, ksize=(5, 5))
    guide, residual = levels / 255, residual.astype(np.float64)
    exact = (blur(guide * residual) - blur(guide) * blur(residual)) / (blur(guide * guide) - blur(guide) ** 2 + 1e-5)
    expected = blur(exact) * guide + blur(blur(residual) - exact * blur(guide))
    assert np.abs((slope * levels + offset) / 255 - expected).max() < 1e-4


@pytest.mark.parametrize('level', [0, 128, 255])
def test_what_is_fine_is_exactly_zero_and_the_ideal_stays_between_black_and_white(level):
    picture = Image.fromarray(np.full((40, 60, 3), level, np.uint8))
    for value in (-1.0, 0.0, 1.0):
        residual = Predictor(model=Constant(value)).predict(picture).residual
        expected = np.float32(np.clip(level / 255 + value, 0, 1) - level / 255)
        assert (residual == 0).all() if expected == 0 else np.abs(residual - expected).max() < 1e-6


def test_alone_as_in_any_batch():
    predictor = Predictor(model=tiny())
    sizes = [(100, 150)] * 3 + [(90, 60), (100, 150), (30, 400)]
    pictures = [photo(*size, seed) for seed, size in enumerate(sizes)]
    alone = [predictor.predict(picture).residual for picture in pictures]
    for batch_size in (1, 2, 16):
        for one, many in zip(alone, predictor.predict_batch(pictures, batch_size)):
            assert np.abs(one - many.residual).max() < 1e-5
    assert predictor.predict_batch([]) == []


def test_half_size_copy_has_nearly_the_same_mean():
    predictor = Predictor(model=tiny())
    for seed in range(4):
        picture = photo(600, 800, seed)
        half = picture.resize((400, 300), Image.Resampling.BOX)
        assert abs(predictor.predict(picture).mean_residual - predictor.predict(half).mean_residual) <= 0.02


def test_inputs_and_result(tmp_path):
    predictor = Predictor(model=tiny(), threshold=0.2)
    picture = photo()
    picture.save(tmp_path / 'a.png')
    results = predictor.predict_batch([picture, tmp_path / 'a.png', str(tmp_path / 'a.png')])
    # places of a batch may differ by rounding when several threads share the work
    assert all(np.abs(result.residual - results[0].residual).max() <= 1e-5 for result in results)
    result = results[0]
    assert result.scores == score_map(result.residual, 0.2) and result.score == result.scores.score
    assert result.threshold == 0.2
    with pytest.raises(AttributeError):
        result.no_such_thing
    transparent = picture.convert('RGBA')
    transparent.putalpha(0)
    white = Image.new('RGB', picture.size, 'white')
    assert np.array_equal(predictor.predict(transparent).residual, predictor.predict(white).residual)
    with pytest.raises(ImageError, match='missing.jpg'):
        predictor.predict(tmp_path / 'missing.jpg')
    with pytest.raises(ImageError, match='limit'):
        Predictor(model=tiny(), max_pixels=10).predict(tmp_path / 'a.png')


def test_the_network_sees_what_it_was_trained_on():
    """Eval mode, RGB on [0, 1], the picture resized in 8 bit."""
    seen = []

    class Spy(Constant):
        def forward(self, x):
            assert not self.training and not torch.is_grad_enabled()
            seen.append(x.clone())
            return super().forward(x)

    picture = photo(256, 128)
    Predictor(model=Spy().train()).predict(picture)
    assert torch.equal(seen[0][0], to_tensor(picture))


def test_scores():
    residual = np.zeros((10, 10), np.float32)
    residual[:3], residual[3:4] = 0.5, -0.2
    scores = score_map(residual)
    assert scores.share_under == pytest.approx(0.3) and scores.share_over == pytest.approx(0.1)
    assert scores.mean_residual == pytest.approx(0.13) and scores.mean_abs_residual == pytest.approx(0.17)
    assert scores.score == pytest.approx(8.3)
    assert score_map(np.zeros((3, 3), np.float32)).score == 10
    assert score_map(residual[:, ::2]).share_over == pytest.approx(0.1)  # not contiguous
    for bad in (np.zeros((0, 3)), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match='residual'):
            score_map(bad)
    with pytest.raises(ValueError, match='threshold'):
        score_map(residual, 0)


def test_arguments_are_checked():
    for arguments, word in (({'size': 16}, 'size'), ({'size': 10 ** 5}, 'size'), ({'threshold': 2}, 'threshold'), ({'radius': 0}, 'radius'),
                            ({'radius': 1.5}, 'radius'), ({'eps': 0}, 'eps'), ({'eps': float('nan')}, 'eps'), ({'upsample': 'nearest'}, 'upsample'),
                            ({'precision': 'int8'}, 'precision'), ({'device': 'abacus'}, 'device'),
                            ({'device': 'cuda:99'}, 'cuda:99'), ({'device': 'mps'}, "'cuda:N', but is 'mps'"),
                            ({'device': torch.device('meta')}, 'device'), ({'device': None}, 'device')):
        with pytest.raises(ValueError, match=word):
            Predictor(model=tiny(), **arguments)
    with pytest.raises(ValueError, match='nowhere.safetensors'):
        Predictor('nowhere.safetensors')
    with pytest.raises(ValueError, match='either a checkpoint or a model'):
        Predictor('nowhere.safetensors', model=tiny())
    predictor = Predictor(model=tiny(), device='cpu')
    with pytest.raises(ValueError, match='batch_size'):
        predictor.predict_batch([], batch_size=0)
    with pytest.raises(ValueError, match='takes a list'):
        predictor.predict_batch('a.jpg')


def test_values_that_are_not_finite_are_an_error():
    with pytest.raises(FloatingPointError):
        Predictor(model=Constant(float('nan'))).predict(photo())


def test_half_precision_on_the_cpu_is_close():
    picture = photo()
    full = Predictor(model=tiny()).predict(picture).residual
    half = Predictor(model=tiny(), precision='bf16').predict(picture).residual
    assert np.abs(full - half).max() < 0.02


def test_library_leaves_thread_settings_alone():
    before = torch.get_num_threads()
    Predictor(model=tiny()).predict(photo())
    assert torch.get_num_threads() == before


def test_batcher_gives_each_thread_its_own_answer():
    predictor = Predictor(model=tiny())
    sizes = [(100, 150), (90, 60), (50, 50)] * 6
    items = [predictor.prepare(photo(*size, seed)).small for seed, size in enumerate(sizes)]
    expected = [predictor.fields([item])[0] for item in items]
    batcher = Batcher(predictor, 4)
    answers = [None] * len(items)

    def ask(place):
        answers[place] = batcher(items[place])

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert all(np.abs(a - b).max() < 1e-5 for a, b in zip(answers, expected))


def test_batcher_passes_errors_on():
    batcher = Batcher(Predictor(model=Constant(float('nan'))), 4)
    for _ in range(2):
        with pytest.raises(FloatingPointError):
            batcher(np.zeros((32, 32, 3), np.uint8))
    batcher.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
def test_gpu_equals_cpu():
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        pictures = [photo(100, 150, seed) for seed in range(3)]
        for one, other in zip(Predictor(model=tiny(), device='cpu').predict_batch(pictures),
                              Predictor(model=tiny(), device='cuda').predict_batch(pictures)):
            assert np.abs(one.residual - other.residual).max() < 1e-4
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


def panorama_view(panorama, yaw, width=2048, field=100):
    """Scene light seen by a camera that looks horizontally into an equirectangular panorama (cubic, 4:3)."""
    height = width * 3 // 4
    focal = 0.5 * width / np.tan(np.radians(field) / 2)
    x, y = np.meshgrid(np.arange(width) - width / 2 + 0.5, np.arange(height) - height / 2 + 0.5)
    x, y = x / focal, y / focal
    longitude, latitude = np.arctan(x) + np.radians(yaw), np.arctan(y / np.hypot(1, x))
    rows, columns = panorama.shape[:2]
    u = (longitude / (2 * np.pi) + 0.5) % 1 * columns - 0.5
    v = (latitude / np.pi + 0.5) * rows - 0.5
    padded = np.concatenate([panorama[:, -4:], panorama, panorama[:, :4]], axis=1)
    light = cv2.remap(padded, (u + 4).astype(np.float32), v.astype(np.float32), cv2.INTER_CUBIC)
    return np.maximum(light, 0)


def develop(light, stops):
    """Scene light -> 8-bit sRGB, clipped."""
    x = np.clip(light * 2.0**stops, 0, 1)
    return np.rint(255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)).astype(np.uint8)


@pytest.mark.slow
def test_edge_aware_upsampling_of_panorama_views(data_dir):
    """What upsampling itself adds: the true map at the network's size, brought to 2048 pixels. 60 views."""
    files = sorted((data_dir / 'hdri').glob('*.hdr'))[::5]
    errors = {'guided': [], 'bilinear': []}
    predictors = {name: Predictor(model=Constant(), upsample=name) for name in errors}
    for place, (file, yaw) in enumerate((file, yaw) for file in files for yaw in range(0, 360, 36)):
        panorama = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[..., ::-1]
        light = panorama_view(panorama, yaw)
        stops = np.arange(-12, 12, 0.25)
        best = stops[np.argmin([abs(develop(light[::8, ::8], s).mean() - 115) for s in stops])]
        ideal = grey_of(Image.fromarray(develop(light, best)))
        picture = Image.fromarray(develop(light, best + (-2, -1, 1, 2)[place % 4]))
        truth = ideal - grey_of(picture)
        for name, predictor in predictors.items():
            item = predictor.prepare(picture)
            small = Image.fromarray(truth).resize(item.small.shape[1::-1], Image.Resampling.BILINEAR)
            errors[name].append(np.abs(predictor.finish(item, np.asarray(small)) - truth).mean())
    assert len(errors['guided']) == 60
    guided, bilinear = np.mean(errors['guided']), np.mean(errors['bilinear'])
    print(f'MAE guided {guided:.5f}, bilinear {bilinear:.5f}')
    assert guided <= 0.85 * bilinear


@pytest.mark.slow
def test_half_size_copies_of_photographs(data_dir):
    """The weights that we ship: a photograph and its half-size copy have nearly the same mean residual."""
    if not DEFAULT_CHECKPOINT.exists():
        pytest.skip('no checkpoints/p_ieanet.safetensors')
    predictor = Predictor()
    files = sorted((data_dir / 'photos' / 'test').glob('*.jpg'))[::8]
    for file in files:
        picture = Image.open(file).convert('RGB')
        half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
        full, half = predictor.predict_batch([picture, half])
        assert abs(full.mean_residual - half.mean_residual) <= 0.02, file.name


def test_path_picture_array_and_tensor_give_the_same_map(tmp_path):
    predictor, picture = Predictor(model=tiny(), device='cpu', size=64), photo()
    picture.save(tmp_path / 'a.png')
    expected = predictor.predict(picture).residual
    for same in (tmp_path / 'a.png', str(tmp_path / 'a.png'), np.asarray(picture), to_tensor(picture), to_tensor(picture).double()):
        assert np.array_equal(predictor.predict(same).residual, expected)


@pytest.mark.parametrize('bad', [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), torch.zeros(1, 8, 8),
                                 torch.full((3, 8, 8), 1.5), torch.full((3, 8, 8), float('nan')), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_wrong_arrays_and_tensors_are_named(bad):
    with pytest.raises(ValueError, match='must'):
        Predictor(model=Constant(), device='cpu').predict(bad)


def test_numbers_are_reachable_on_the_result():
    result = Predictor(model=Constant(0.3), device='cpu').predict(photo())
    assert result.mean_under == result.scores.mean_under and result.share_under == 1
    with pytest.raises(AttributeError):
        result.nothing
