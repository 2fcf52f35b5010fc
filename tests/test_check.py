import numpy as np
import pytest
from PIL import Image

from datasets.check import main
from test_iea40k import make_set


@pytest.fixture
def clean(tmp_path):
    make_set(tmp_path, scenes=8)
    return tmp_path


def test_a_clean_set_passes(clean, capsys):
    assert main([str(clean), str(clean / 'all.csv'), '--sheet', str(clean / 'sheet.png')]) == 0
    out = capsys.readouterr().out
    assert '16 rows, clean' in out and '-1 EV: 8 pictures' in out and 'share of pixels' in out
    assert Image.open(clean / 'sheet.png').size[0] == 960


def test_twelve_planted_faults_are_named_in_one_pass(clean, capsys):
    img, label, best = clean / 'IEA_img', clean / 'label/exposure_condition', clean / 'label/global_best'
    good = np.load(label / 's0_N1.npy')
    (img / 's0_N1.png').unlink()                                                       # 1 picture missing
    (img / 's0_P1.png').write_bytes((img / 's0_P1.png').read_bytes()[:300])            # 2 picture truncated
    Image.new('RGB', (128, 256)).save(img / 's1_N1.png')                               # 3 picture of another size
    (label / 's1_P1.npy').unlink()                                                     # 4 label missing
    (label / 's2_N1.npy').write_bytes(b'text')                                         # 5 label not an array
    np.save(label / 's2_P1.npy', good[:100])                                           # 6 label of another shape
    np.save(label / 's3_N1.npy', good.astype(np.int32))                                # 7 label of another dtype
    np.save(label / 's3_P1.npy', np.where(good > 0, np.nan, 1).astype(np.float32))     # 8 not finite
    np.save(label / 's4_N1.npy', np.full_like(good, 300))                              # 9 beyond 255
    (best / 's5.png').unlink()                                                         # 10 reference missing
    lines = (clean / 'all.csv').read_text().splitlines()
    lines = [line.replace('s6_N1.png,s6.png,10', 's6_N1.png,s6.png,10.5') for line in lines] + [lines[1]]   # 11 score, 12 row twice
    (clean / 'all.csv').write_text('\n'.join(lines) + '\n')
    (clean / 'other.csv').write_text('img_id,ref_id,score\ns7_P1.png,s7.png,5\n')     # 13 scene in two splits
    assert main([str(clean), str(clean / 'all.csv'), str(clean / 'other.csv')]) == 1
    out = capsys.readouterr().out
    for words in (('s0_N1.png', 'no such file'), ('s0_P1.png', 'truncated'), ('s1_N1.png', '256x128'), ('s1_P1.npy', 'no such file'),
                  ('s2_N1.npy', 'not a readable'), ('s2_P1.npy', '(100, 256)'), ('s3_N1.npy', 'int32'), ('s3_P1.npy', 'not finite'),
                  ('s4_N1.npy', 'from 300'), ('s5.png', 'no such file'), ('s6_N1.png', 'outside 0..10'), ('s0_N1.png', 'stands twice'),
                  ('s7.png', 'is also in')):
        assert any(all(w in line for w in words) for line in out.splitlines()), words


def test_a_sheet_of_a_set_with_faults(clean, capsys):
    img, label, best = clean / 'IEA_img', clean / 'label/exposure_condition', clean / 'label/global_best'
    (best / 's0.png').unlink()
    (best / 's3.png').write_text('no picture')
    (img / 's5_N1.png').unlink()
    np.save(label / 's7_P1.npy', np.load(label / 's7_P1.npy').astype(np.float64))  # accepted, and drawn
    (label / 's7_N1.npy').unlink()
    command = [str(clean), str(clean / 'all.csv'), '--sheet']
    assert main([*command, str(clean / 'sheet.png')]) == 1
    assert 'faults' in capsys.readouterr().out
    with Image.open(clean / 'sheet.png') as sheet:
        assert sheet.getpixel((240, 80)) == (128, 128, 128)  # the first row's reference
    assert main([*command, str(clean / 'none' / 'sheet.png')]) == 2
    said = capsys.readouterr()
    assert '16 rows, ' in said.out
    assert said.err.count('\n') == 1 and 'none/sheet.png: cannot be written' in said.err


def test_validity_masks(clean, capsys):
    folder = clean / 'label/validity'
    folder.mkdir()
    half = np.ones((256, 256), np.uint8)
    half[:128] = 0
    np.save(folder / 's0_N1.npy', half)
    assert main([str(clean), str(clean / 'all.csv')]) == 0
    assert '1 labels have a validity mask with holes, 50.0% valid' in capsys.readouterr().out
    np.save(folder / 's0_P1.npy', half * 0)
    np.save(folder / 's1_N1.npy', half[:200])
    np.save(folder / 's1_P1.npy', half.astype(np.float32))
    np.save(folder / 's2_N1.npy', half * (np.arange(256) % 11 < 10))
    assert main([str(clean), str(clean / 'all.csv')]) == 1
    out = capsys.readouterr().out
    for words in (('s0_P1.npy', 'no pixel'), ('s1_N1.npy', '(200, 256)'), ('s1_P1.npy', 'float32'), ('s2_N1.npy', '11x11')):
        assert any(all(w in line for w in words) for line in out.splitlines()), words


def test_workers(clean, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(clean), str(clean / 'all.csv'), '--workers', '0'])
    error = capsys.readouterr().err
    assert end.value.code == 2 and '--workers: 0' in error and error.count('\n') == 1


def test_no_set_at_all(tmp_path, capsys):
    assert main([str(tmp_path / 'no'), 'x.csv']) == 2
    assert 'no such folder' in capsys.readouterr().err
