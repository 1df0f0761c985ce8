"What people hand to the main job by mistake: each is answered before training, with the file or value and what to do."
import io, shutil

import numpy as np
import pytest
from PIL import Image

from cdkd.experiments import MTKDExperiment

SIZE = 64

def pair(rng, share):
    a = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8); mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:round(SIZE*share)] = 255
    return a, 255 - a, mask

@pytest.fixture
def folder(tmp_path):
    "A good data set: 12 training, 3 validation and 3 test pairs with changes from small to large."
    rng, root = np.random.default_rng(0), tmp_path/'pairs'
    for split, n in dict(train=12, val=3, test=3).items():
        for k in ('A', 'B', 'label'): (root/split/k).mkdir(parents=True)
        for i in range(n):
            for k, x in zip(('A', 'B', 'label'), pair(rng, (i % 3 + .1)*.3)): Image.fromarray(x).save(root/split/k/f'p{i:02}.png')
    return root

def start(folder, **kw):
    out = kw.pop('out', folder.parent/'run')
    with MTKDExperiment(out, folder, **{'size': SIZE, 'epochs': 1, **kw}) as exp: return exp.table

def refused(folder, *words, error=ValueError, **kw):
    with pytest.raises(error) as e: start(folder, **kw)
    for w in words: assert w in str(e.value), f'{w!r} is not in: {e.value}'

def masks(folder, f, split='*'):
    for p in folder.glob(f'{split}/label/*.png'): f(p, np.asarray(Image.open(p)))

def test_good(folder): assert start(folder)['car'].max() > .5

def test_empty_folder(tmp_path):
    (tmp_path/'pairs').mkdir(); refused(tmp_path/'pairs', 'pairs')

def test_no_folder(tmp_path): refused(tmp_path/'nowhere', 'nowhere', error=(ValueError, FileNotFoundError))

def test_missing_mask(folder):
    (folder/'train/label/p03.png').unlink(); refused(folder, 'p03', "missing='drop'")

def test_two_sizes(folder):
    Image.new('RGB', (SIZE, 50)).save(folder/'train/B/p04.png'); refused(folder, 'train/B/p04.png', '50x64', 'resample')

def test_mask_of_other_size(folder):
    Image.new('L', (32, 32)).save(folder/'train/label/p05.png'); refused(folder, 'train/label/p05.png', '32x32', 'nearest')

@pytest.mark.parametrize('kind', ['label', 'A'])
def test_truncated(folder, kind):
    p = folder/'train'/kind/'p07.png'; p.write_bytes(p.read_bytes()[:len(p.read_bytes())//2]); refused(folder, f'{kind}/p07.png', 'download')

def test_zero_one_masks(folder):
    masks(folder, lambda p, m: Image.fromarray(m//255).save(p)); refused(folder, "mask_rule='==1'")
    assert start(folder, mask_rule='==1', out=folder.parent/'run1')['car'].max() > .5

def test_grey_jpeg_masks(folder):
    "Compression noise around 0 and 255 is not a problem of the rule; the ratios are those of the clean masks."
    clean = start(folder, out=folder.parent/'clean')['car']
    def grey(p, m): b = io.BytesIO(); Image.fromarray(m).save(b, 'JPEG', quality=75); Image.open(b).save(p)
    masks(folder, grey)
    assert np.abs(start(folder)['car'] - clean).max() < .02

def test_rgb_masks(folder):
    masks(folder, lambda p, m: Image.fromarray(m).convert('RGB').save(p)); assert start(folder)['car'].max() > .5
    masks(folder, lambda p, m: Image.fromarray(np.where(m > 0, [255, 0, 0], [0, 0, 255]).astype(np.uint8)).save(p)); refused(folder, 'rgb 255,0,0', out=folder.parent/'run2')

def test_empty_bin(folder):
    for p in [*folder.glob('train/*/p0[036]*.png'), *folder.glob('train/*/p09.png')]: p.unlink()      # the small changes
    refused(folder, "'small'", 'quantile', bins='paper')

def test_nothing_changes(folder):
    masks(folder, lambda p, m: Image.fromarray(m*0).save(p)); refused(folder, '0')

def test_one_pair(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path/'pairs'
    for k, x in zip(('A', 'B', 'label'), pair(rng, .4)): (root/k).mkdir(parents=True); Image.fromarray(x).save(root/k/'only.png')
    refused(root, 'test')

def test_no_test_split(folder):
    shutil.rmtree(folder/'test'); refused(folder, 'no test pairs', '--test-frac')
    assert (start(folder, test_frac=.2, out=folder.parent/'run3')['split'] == 'test').any()

def test_unknown_model(folder): refused(folder, "Did you mean 'bit_r18'", arch='bit_r81', error=KeyError)
def test_unknown_encoder(folder): refused(folder, 'resnet18', arch='siam_unet', encoder='resnet81', error=(ValueError, KeyError))
def test_size_does_not_fit(folder): refused(folder, '8x8', 'bit_r18', 'larger', arch='bit_r18', size=8)
def test_other_run(folder):
    start(folder, arch='fc_siam_diff'); refused(folder, 'another run', "arch: 'fc_siam_diff' there, 'fc_ef' now", arch='fc_ef')
def test_not_a_run(folder, tmp_path):
    (tmp_path/'photos').mkdir(); (tmp_path/'photos/a.jpg').write_bytes(b'x'); refused(folder, 'not a run of cdkd', out=tmp_path/'photos')
def test_other_data(folder):
    start(folder); masks(folder, lambda p, m: Image.fromarray(np.roll(m, 9)|(np.arange(SIZE)[:, None] < 20).astype(np.uint8)*255).save(p), 'test'); refused(folder, 'fingerprint')
