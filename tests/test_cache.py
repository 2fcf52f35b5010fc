import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from datasets.cache import CachedIEA40K
from datasets.iea40k import DatasetError, IEA40K
from test_iea40k import make_set


def test_cache_gives_the_same_samples(tmp_path):
    csv = make_set(tmp_path)
    (tmp_path / 'label/validity').mkdir()
    np.save(tmp_path / 'label/validity/s1_P1.npy', np.eye(256, dtype=np.uint8))
    for augment, keys in ((False, range(4)), (True, [(i, 5 + i, 96) for i in range(4)])):
        plain, cached = IEA40K(tmp_path, csv, augment=augment), CachedIEA40K(tmp_path, csv, tmp_path / 'all.cache', augment=augment)
        assert len(plain) == len(cached)
        for key in keys:
            a, b = plain[key], cached[key]
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in ('image', 'residual', 'mask'))
            assert a['img_id'] == b['img_id'] and a['score'] == b['score']


def test_a_data_worker_opens_the_file_itself(tmp_path):
    cached = CachedIEA40K(tmp_path, make_set(tmp_path), tmp_path / 'all.cache')
    sent = pickle.dumps(cached)
    assert len(sent) < 10_000 and torch.equal(pickle.loads(sent)[3]['image'], cached[3]['image'])


def test_cache_is_made_anew_when_something_changes(tmp_path):
    csv, path = make_set(tmp_path), tmp_path / 'all.cache'
    CachedIEA40K(tmp_path, csv, path)
    first = os.stat(path).st_mtime_ns
    CachedIEA40K(tmp_path, csv, path)
    assert os.stat(path).st_mtime_ns == first
    label = tmp_path / 'label/exposure_condition/s0_N1.npy'
    np.save(label, np.full((256, 256), 51, np.int16))
    os.utime(label, ns=(1, 1))
    assert torch.allclose(CachedIEA40K(tmp_path, csv, path)[0]['residual'], torch.tensor(0.2))
    validity = tmp_path / 'label/validity/s0_N1.npy'
    for mask in (np.eye(256, dtype=np.uint8), np.ones((256, 256), np.uint8), None):
        validity.parent.mkdir(exist_ok=True)
        validity.unlink() if mask is None else np.save(validity, mask)
        expected = 1 if mask is None else mask.mean(dtype=float)
        assert CachedIEA40K(tmp_path, csv, path)[0]['mask'].mean().item() == pytest.approx(expected)
    path.write_bytes(path.read_bytes()[:5000])  # cut short
    assert len(CachedIEA40K(tmp_path, csv, path)) == 4 and path.stat().st_size > 1_000_000


@pytest.mark.skipif(sys.platform == 'win32', reason='no file locks')
def test_of_several_that_need_it_one_makes_it(tmp_path, monkeypatch):
    csv, path, made, together = make_set(tmp_path), tmp_path / 'all.cache', [], threading.Barrier(3)
    is_current, write = CachedIEA40K._is_current, CachedIEA40K._write

    def all_see_it_missing(self, mark):
        answer = is_current(self, mark)
        if not made and not path.with_name('.all.cache.lock').exists():
            together.wait(timeout=10)
        return answer
    monkeypatch.setattr(CachedIEA40K, '_is_current', all_see_it_missing)
    monkeypatch.setattr(CachedIEA40K, '_write', lambda *args: (made.append(1), write(*args)))
    with ThreadPoolExecutor(3) as pool:
        caches = [f.result() for f in [pool.submit(CachedIEA40K, tmp_path, csv, path) for _ in range(3)]]
    assert [len(c) for c in caches] == [4] * 3 and len(made) == 1
    assert not list(tmp_path.glob('.*'))


def test_a_fault_leaves_no_half_file(tmp_path):
    csv = make_set(tmp_path)
    np.save(tmp_path / 'label/exposure_condition/s1_P1.npy', np.zeros((10, 10), np.int16))
    with pytest.raises(DatasetError, match='s1_P1.npy'):
        CachedIEA40K(tmp_path, csv, tmp_path / 'all.cache')
    assert not list(tmp_path.glob('*.cache')) and not list(tmp_path.glob('.*tmp'))
