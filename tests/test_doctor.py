"What the doctor says of folders that were broken in one way each, and the command's exit status."
import json, os, shutil, sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cdkd.cli import run_doctor
from cdkd.data.doctor import _edges, doctor, tile_borders
from cdkd.data.load import ReadError
from cdkd.data.sets import carve_split, cd_pairs, fake_dataset
from cdkd.synth import synth_pair

QUIET = ('season', 'haze', 'noise', 'transient')            # nuisances that do not move anything

def save(x, f): f.parent.mkdir(parents=True, exist_ok=True); np.save(f, x) if f.suffix == '.npy' else Image.fromarray(x).save(f)

def write(root, split, name, a, b, mask):
    for k, x in zip(('A', 'B', 'label'), (a, b, mask)): save(x, root/split/k/f'{name}.png')

@pytest.fixture(scope='module')
def scenes(): return [synth_pair(700+i, size=96, car=(.02, .12, .5)[i % 3], nuisances=QUIET) for i in range(12)]

@pytest.fixture
def folder(tmp_path, scenes):
    "A good data set: 8 training and 4 test pairs."
    for i, p in enumerate(scenes): write(tmp_path/'pairs', 'train' if i < 8 else 'test', f'p{i:02}', p.a, p.b, p.mask)
    return tmp_path/'pairs'

def said(report, words, severity):
    f = report.findings; hit = f[f.what.str.contains(words, regex=False)]
    assert len(hit), f'{words!r} is not in\n{report}'
    assert hit.severity.iat[0] == severity, report
    return hit.iloc[0]

def test_good(folder):
    r = doctor(folder)
    assert r.ok and r.count()['warning'] == 0, r
    assert not len(r.leaks) and (r.pairs.car > 0).all() and r.pairs.scene.nunique() == 12

def test_missing_mask_is_named(folder):
    (folder/'train/label/p03.png').unlink(); r = doctor(folder)
    assert said(r, '1 of 8 pairs has no mask', 'error')['where'] == ('train/A/p03.png',) and np.isnan(r.pairs.car[3])
    assert len(r.pairs) == 12                                # the pair is examined all the same

def test_stray_files(folder):
    save(np.zeros((9, 9, 3), np.uint8), folder/'overview.png'); save(np.zeros((9, 9, 3), np.uint8), folder/'train/A/only_a.png'); r = doctor(folder)
    said(r, '1 image belongs to no pair', 'warning'); said(r, 'has no image of date B and no mask', 'error')

def test_twin_suffix_and_case(folder):
    shutil.copy(folder/'train/A/p01.png', folder/'train/A/p01.jpg'); (folder/'train/label/p02.png').rename(folder/'train/label/P02.png'); r = doctor(folder)
    said(r, "are both the pair 'p01'", 'error'); assert 'train/label/P02.png' in said(r, '1 pair would be complete if names agreed', 'error')['where']

@pytest.mark.parametrize('kind', ['A', 'B', 'label'])
@pytest.mark.parametrize('keep', [0, .5])
def test_truncated(folder, kind, keep):
    f = folder/'train'/kind/'p05.png'; f.write_bytes(f.read_bytes()[:int(keep*f.stat().st_size)])
    assert said(doctor(folder), 'cannot be read', 'error')['where'] == (f'train/{kind}/p05.png',)

def test_swapped_sizes(folder):
    for k in 'AB': f = folder/'train'/k/'p01.png'; x = np.asarray(Image.open(f)); save(x[:64] if k == 'A' else x[:, :64], f)
    assert '64x96' in said(doctor(folder), '1 pair of unequal size: train/p01: A 64x96, B 96x64, mask 96x96', 'error')['what']

def test_wrong_split_of_a_list(tmp_path):
    fake_dataset('whu', tmp_path, n=3); (tmp_path/'list/test.txt').open('a').write('train_0.png\n'); r = doctor(tmp_path)
    said(r, 'a pair in two splits would leak', 'error'); assert len(r.pairs) == 9

def test_neighbour_across_splits(folder):
    big = synth_pair(4, size=256, nuisances=QUIET)
    for split, name, x in (('train', 'left', 0), ('test', 'right', 128)): write(folder, split, name, *(v[64:192, x:x+128] for v in big[:3]))
    r = doctor(folder); assert said(r, '1 of 5 test pairs touches tiles of train', 'warning')['where'] == ('train/left ~ test/right (right of it)',)
    assert r.ok and r.pairs.scene[r.pairs.name.isin(['left', 'right'])].nunique() == 1 and len(r.leaks) == 1

def test_near_copy_and_overlap(folder, scenes):
    p = scenes[2]; write(folder, 'test', 'again', np.clip(p.a*1.2 + 8, 0, 255).astype(np.uint8), p.b[::-1], p.mask)
    big = synth_pair(4, size=256, nuisances=QUIET)
    for split, name, x in (('train', 'o1', 0), ('test', 'o2', 48)): write(folder, split, name, *(v[64:192, x:x+128] for v in big[:3]))
    r = doctor(folder); assert not r.ok
    said(r, '1 of 6 test pairs looks the same as pairs of train (1 near-copy)', 'error'); assert '+0 px down, +48 px right' in said(r, 'overlaps with tiles of train', 'error')['where'][0]

@pytest.mark.parametrize('splits', [('train', 'val', 'test'), ('val', 'train', 'test'), ('test', 'train', 'val'), ('train', 'train', 'train')])
def test_three_copies(folder, splits):
    f = {k: str(folder/'train'/d/'p01.png') for k, d in dict(a='A', b='B', mask='label').items()}
    r = doctor(pd.DataFrame([dict(f, split=s, name=f'{i}') for i, s in enumerate(splits)]))
    assert r.leaks.kind.tolist() == ['identical']*3 and list(zip(r.leaks.i, r.leaks.j)) == [(0, 1), (0, 2), (1, 2)]
    said(r, '3 pairs hold an image' if splits[0] == splits[1] else '1 of 1 test pair holds an image of pairs of train', 'warning' if splits[0] == splits[1] else 'error')
    assert not r.findings.what.str.contains('overlap').any()

def test_advice_can_be_followed(folder):
    big = synth_pair(4, size=256, nuisances=QUIET)
    for split, name, x in (('train', 'left', 0), ('test', 'right', 128)): write(folder, split, name, *(v[64:192, x:x+128] for v in big[:3]))
    report = doctor(folder); todo = said(report, 'touches tiles of train', 'warning').todo
    t = eval(todo[todo.index('carve_split('):]); assert carve_split and t[t.name.isin(['left', 'right'])].split.nunique() == 1 and (t.split == 'test').any() and not doctor(t).leaks.across.any()

def test_not_looked_at_is_said(folder, monkeypatch, scenes):
    p = scenes[2]; write(folder, 'test', 'again', np.clip(p.a*1.2 + 8, 0, 255).astype(np.uint8), p.b[::-1], p.mask)
    monkeypatch.setattr('cdkd.data.doctor._LOOKS', 0); monkeypatch.setattr('cdkd.data.doctor._LARGE', 80*80); r = doctor(folder)
    assert 'near-copy' not in set(r.leaks.kind); said(r, 'not reported: ', 'note'); said(r, '13 pairs of more than 6,400 pixels', 'note')

def test_small_sets_of_unrelated_tiles():
    scenes = [synth_pair(5000+i, size=64) for i in range(60)]; rng, false = np.random.default_rng(0), 0
    edges = [{k: np.stack([_edges(x)[k] for x in (p.a, p.b)]) for k in 'LRTB'} for p in scenes]
    for n in (2, 3, 4, 5, 6)*60: false += len(tile_borders([edges[i] for i in rng.choice(60, n, replace=False)]).rows) > 0
    assert false <= 5, false

def test_words(folder, tmp_path):
    t = cd_pairs(folder, val_frac=0); empty, full = str(tmp_path/'empty.png'), str(tmp_path/'full.png')
    for f, v in ((empty, 0), (full, 255)): save(np.full((96, 96), v, np.uint8), tmp_path/os.path.basename(f))
    r = doctor(t.assign(mask=empty)); said(r, 'train: CAR median 0 %', 'note'); assert 'no pixel has changed' in str(r) and 'nan' not in str(r)
    r = doctor(t.assign(mask=full)); assert any('every pixel has changed' in w for w in r.findings.what) and '1 : 0' not in str(r)
    small = str(tmp_path/'small.png'); save(np.zeros((9, 9, 3), np.uint8), tmp_path/'small.png'); odd = t.copy(); odd.loc[0, 'b'] = small; said(doctor(odd), 'the 11 others have 96x96 pixels', 'note')

@pytest.mark.parametrize('none', [None, np.nan, ''])
def test_a_row_without_mask(folder, none):
    t = cd_pairs(folder, val_frac=0).astype({'mask': object}); t.loc[2, 'mask'] = none; r = doctor(t)
    assert said(r, 'pairs has no mask', 'error')['where'] and not r.findings.what.str.contains('Error|nan:').any() and len(r.pairs) == 12
    assert doctor(t.assign(mask='')).ok                      # of no pair: so it is meant

def test_shift(tmp_path):
    for i in range(4): p = synth_pair(800+i, size=128, nuisances=QUIET); write(tmp_path, 'train', f'{i}', p.a, np.roll(p.b, (3, 0), (0, 1)), p.mask)
    t = doctor(tmp_path).pairs; t = t[t.measurable]
    assert len(t) >= 3 and np.allclose(t.dy, 3, atol=.3) and np.allclose(t.dx, 0, atol=.3)

def test_unchanged_everywhere(folder):
    for f in folder.glob('*/label/*.png'): save(np.zeros((96, 96), np.uint8), f)
    said(doctor(folder), 'all 12 masks are empty', 'error')

def test_one_pair(tmp_path, scenes):
    p = scenes[1]; write(tmp_path, 'train', 'x', p.a, p.b, p.mask); r = doctor(tmp_path); assert r.ok and len(r.figures()) >= 2

def test_no_masks_at_all(folder):
    for s in ('train', 'test'): shutil.rmtree(folder/s/'label')
    said(doctor(folder), 'have no masks at all', 'error')

def test_arrays_and_small_images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        x = rng.random((40, 50, 5)).astype(np.float32); x[0] = np.nan
        save(x, tmp_path/f'train/A/{i}.npy'); save(x + 1, tmp_path/f'train/B/{i}.npy'); save((x[..., 1] > .5).astype(np.uint8), tmp_path/f'train/label/{i}.npy')
    for k in ('A', 'B', 'label'): save(np.ones((1, 1) if k == 'label' else (1, 1, 3), np.uint8), tmp_path/f'train/{k}/dot.png')
    r = doctor(tmp_path, mask_rule='==1'); assert len(r.pairs) == 4 and r.files.decodes.all(); json.dumps(r.to_dict(), allow_nan=False)

def test_bands_in_separate_files(tmp_path):
    "The layout of OSCD, date 2 smaller."
    rng = np.random.default_rng(0)
    for city in ('rome', 'oslo'):
        for d, h in ((1, 60), (2, 58)):
            for band, k in (('B01', 6), ('B02', 1)): save(rng.integers(0, 9999, (h//k, 66//k)).astype(np.uint16), tmp_path/city/f'imgs_{d}'/f'S2_{d}_{band}.tif')
        save((rng.random((60, 66)) < .1).astype(np.uint8) + 1, tmp_path/city/f'{city}-cm.tif')
    r = doctor(tmp_path); said(r, 'no pairs: the 10 images', 'error'); assert 'rome/imgs_1 and rome/imgs_2, B02: 60x66 and 58x66' in said(r, '4 bands differ in size', 'error')['where']
    assert said(r, '2 images may be masks: values 1', 'warning').todo == "if 2 means change: mask_rule='==2'"

def test_other_layouts_are_recognised(tmp_path):
    fake_dataset('second', tmp_path/'second', n=3); assert doctor(tmp_path/'second').findings.todo.str.contains("spec='second'").any()
    fake_dataset('ombria', tmp_path/'ombria', n=3, layout=1); r = doctor(tmp_path/'ombria'); assert r.ok and r.spec == 'ombria'
    fake_dataset('sztaki', tmp_path/'sztaki', n=3, layout=1); r = doctor(tmp_path/'sztaki'); assert r.spec == 'sztaki' and not r.findings.what.str.contains('no pair').any()

def test_table(folder):
    t = cd_pairs(folder, val_frac=0); assert doctor(t).count() == doctor(folder).count()
    os.remove(t.a[0]); said(doctor(t), '1 file cannot be read', 'error')
    with pytest.raises(ValueError, match="columns a and b"): doctor(t.drop(columns='b'))
    with pytest.raises(ReadError, match='table of pairs is empty'): doctor(pd.DataFrame(dict(a=[], b=[])))

def test_nothing_to_examine(tmp_path):
    for name in ('empty', 'text', 'damaged'): (tmp_path/name).mkdir()
    (tmp_path/'text/a.txt').write_text('hello'); (tmp_path/'damaged/a.png').write_bytes(b'no image')
    for name, words in dict(empty='no images', text='no images', damaged='none of the 1 images can be read', nowhere='no such folder', **{'text/a.txt': 'this is a file'}).items():
        with pytest.raises(ReadError, match=words): doctor(tmp_path/name)

def test_same_in_any_order(folder, monkeypatch):
    one = doctor(folder).to_dict(); walk = os.walk
    monkeypatch.setattr(os, 'walk', lambda *a, **k: ((p, ds, fs[::-1]) for p, ds, fs in walk(*a, **k))); two = doctor(folder).to_dict()
    one.pop('seconds'); two.pop('seconds'); assert one == two

def test_command(folder, tmp_path, capsys, scenes):
    out = str(tmp_path/'r.json'); assert run_doctor(str(folder), json=out, figures=str(tmp_path/'figs')) == 0
    assert json.loads(open(out).read())['ok'] is True and {'car.png', 'masks.png'} <= set(os.listdir(tmp_path/'figs')); assert '12 pairs (train 8, test 4)' in capsys.readouterr().out
    save(np.zeros((9, 9, 3), np.uint8), folder/'overview.png'); assert run_doctor(str(folder)) == 0 and run_doctor(str(folder), strict=True) == 1
    p = scenes[0]; write(folder, 'test', 'copy', p.a, p.b, p.mask); assert run_doctor(str(folder)) == 1
    for bad in (dict(folder=str(tmp_path/'nowhere')), dict(folder=str(folder), spec='levr'), dict(folder=str(folder), mask_rule='most'), dict(folder=str(folder), group='(')): assert run_doctor(**bad) == 2
    assert "Did you mean 'levir'" in capsys.readouterr().err

def test_command_never_says_errors_when_it_failed(folder, tmp_path, capsys, monkeypatch):
    (tmp_path/'taken').write_text(''); assert run_doctor(str(folder), figures=str(tmp_path/'taken/figs')) == 2 and 'Error' in capsys.readouterr().err
    for p in folder.glob('*/label/*.png'): save((np.asarray(Image.open(p)) > 0).astype(np.uint8), p)
    assert run_doctor(str(folder)) == 1; assert "--mask-rule '" in ' '.join(capsys.readouterr().out.split())
