"""Called by tools/check.py: import every module of cdkd and train, on the packages of an overlay folder that comes first on the path.

    python tools/newest.py OVERLAY fastai=2.8.12 fastcore=2.2.39 ...
It fails when a package did not in fact come from the overlay.
"""
import importlib, math, os, sys, tempfile
from pathlib import Path

def check_origin(overlay, wanted):
    "Each package is imported from `overlay` and has the version wanted."
    for name, version in wanted:
        if name not in ('fastai', 'fastcore', 'fasttransform', 'fastprogress'): continue
        m = importlib.import_module(name)
        where = Path(m.__file__).resolve()
        assert where.is_relative_to(Path(overlay).resolve()), f'{name} came from {where}, not from the overlay'
        assert getattr(m, '__version__', version) == version, f'{name} is {m.__version__}, not {version}'
        print(f'newest: {name} {version}')

def import_all():
    "Import every module of cdkd; returns their names."
    import cdkd
    root = Path(cdkd.__file__).parent
    names = sorted('.'.join(('cdkd', *p.relative_to(root).with_suffix('').parts)) for p in root.rglob('*.py') if p.name not in ('__init__.py', '_modidx.py'))
    for n in names: importlib.import_module(n)
    print(f'newest: {len(names)} modules of cdkd imported')
    return names

def train(names):
    "Two epochs of a tiny learner, then distillation from two teachers; losses must be finite."
    import torch; torch.set_num_threads(1)
    if 'cdkd.fixtures' not in names: raise SystemExit('cdkd.fixtures is not there: nothing was trained')
    from cdkd.fixtures import synth_cd_learner
    learn = synth_cd_learner()
    learn.fit(2)
    losses = [float(v[0]) for v in learn.recorder.values]
    assert all(map(math.isfinite, losses)), losses
    print(f'newest: trained, loss {losses[0]:.3f} -> {losses[-1]:.3f}')
    if 'cdkd.distill.mtkd' in names: distil(learn)

def distil(learn):
    "One epoch of MTKD with clones of the trained model as teachers."
    from cdkd.car import PAPER_BINS
    from cdkd.distill.mtkd import MTKD
    teachers = {n: learn.model.clone() for n in ('small', 'medium', 'large')}
    learn.fit(1, cbs=MTKD(teachers, bins=PAPER_BINS, weight='auto'))
    assert math.isfinite(float(learn.recorder.values[-1][0]))
    print('newest: distilled')

def pipeline(names):
    "The whole way from files: scenes, loader with the heaviest augmentation, training, evaluation."
    from cdkd.data.block import cd_dls
    from cdkd.evaluate import evaluate
    from cdkd.learner import cd_learner
    from cdkd.synth import synth_dataset
    with tempfile.TemporaryDirectory() as d:
        dls = cd_dls(synth_dataset(Path(d)/'synth', n=dict(train=8, val=4, test=4), size=64), bs=4, size=32, aug='changer')
        learn = cd_learner(dls, 'fc_siam_diff')
        learn.fit_poly(1, 1e-3)
        scores = evaluate(learn)
    whole = scores[scores['bins'] == 'all']
    assert (whole['n'] == 4).all() and whole['acc'].between(0, 1).all(), whole
    print('newest: trained and evaluated from files')

if __name__ == '__main__':
    overlay, *wanted = sys.argv[1:]
    os.environ.setdefault('CDKD_NO_BAR', '1')
    check_origin(overlay, [w.split('=') for w in wanted])
    names = import_all()
    train(names); pipeline(names)
    check_origin(overlay, [w.split('=') for w in wanted if w.startswith('fast')])
    print('newest: all good')
