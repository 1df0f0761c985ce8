"Two processes that `torchrun` starts, on the CPU: they do what one does, stop together, and go on after a kill. This file is also the program they run."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

accelerate = pytest.importorskip('accelerate')
from fastai.callback.core import Callback

from cdkd.callbacks import KeepBest, StopOnNaN, resume_fit
from cdkd.car import CarBins
from cdkd.core import seeded
from cdkd.distill.mtkd import MTKD, Teachers
from cdkd.distributed import RankModel
from cdkd.fixtures import synth_cd_learner
from cdkd.io import content_hash
from cdkd.models.registry import cd_recipe, register_cd, wrap_cd
from cdkd.ranks import gather, process_group, rank, world_size

# ---------------------------------------------------------------------------------------------------- what the processes do

class Net(nn.Module):
    "A small network, with group normalisation by default, and a parameter that nothing uses."
    def __init__(self, norm=lambda: nn.GroupNorm(2, 8)):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), norm(), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), norm(), nn.ReLU(), nn.Conv2d(8, 2, 1))
        self.spare, self.still = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2), requires_grad=False)
    def forward(self, a, b): return self.net(torch.cat([a, b], 1))

def net(seed=0, **kw):
    with seeded(seed): m = wrap_cd(Net(**kw), n_out=2)
    m.unused = {'net.spare': 'kept for this test'}
    return m

def learner(model=None): # 14 pairs in batches of 4, rotated; 7 validation pairs
    return synth_cd_learner(model or net(), n=14, n_valid=7, size=32, bs=4, dls_kw=dict(aug='standard'), loss_func='ce+dice', lr=3e-3).to_distributed()

class Two(nn.Module):
    "A network with a second output, which no loss uses."
    def __init__(self): super().__init__(); self.body, self.heads = nn.Conv2d(6, 8, 3, padding=1), nn.ModuleList([nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)])
    def forward(self, a, b): x = self.body(torch.cat([a, b], 1)); return [h(x) for h in self.heads]

def hashed(*models): return [content_hash(*m.state_dict().values()) for m in models]

class Look(Callback):
    "Is the model in DDP, and are its parameters the student's alone?"
    order, run_valid = 20, False
    def __init__(self, student, others): self.mine, self.others = {id(p) for p in student.parameters()}, {id(p) for m in others for p in m.parameters()}
    def after_loss(self):
        assert isinstance(self.learn.model, RankModel) == (world_size() > 1)
        assert {id(p) for _, p in nn.Module.named_parameters(self.learn.model)} == self.mine and not self.mine & self.others      # what DDP itself holds
        assert len(self.learn.idx) == 4//world_size() and self.learn.model.name == 'custom'

def distil(out):
    "Distillation from three teachers, live and cached, and a network with batch normalisation: weights and history."
    out = Path(out)
    teachers = Teachers({n: net(i+1) for i, n in enumerate(('small', 'medium', 'large'))}, CarBins((.05, .2)))
    learn, kd, best = learner(), MTKD(teachers, weight='auto'), KeepBest('valid_loss')
    before = hashed(*kd.source.models)
    with learn.no_logging(): learn.fit_poly(3, cbs=[StopOnNaN(), best, kd, Look(learn.model, kd.source.models)])
    assert hashed(*kd.source.models) == before and kd.source.calls
    kept, kd = learner(), MTKD(teachers, weight=.1).cached(path=out.with_suffix('.targets'))
    with kept.no_logging(): kept.fit_poly(2, cbs=kd); kept.fit_poly(1, cbs=kd)             # the second fit sees other epochs than the first
    assert len([n for n in gather(kd.source.source.calls) if n]) == 1 and kept.dls.train.dataset.maps is None  # one rank asked the teachers
    norm = learner(net(norm=lambda: nn.BatchNorm2d(8)))
    with norm.no_logging(): norm.fit_poly(2)
    with seeded(0): two = learner(wrap_cd(Two(), n_out=2))
    with two.no_logging(): two.fit_poly(1)
    assert not isinstance(learn.model, RankModel) and not isinstance(norm.model, RankModel)
    assert len({*map(str, gather([hashed(learn.model, kept.model, norm.model, two.model), best.best, learn.history.drop(columns='seconds').values.tolist()]))}) == 1
    with norm.no_bar(): score = [float(x) for x in norm.validate()]                    # outside a fit every rank validates everything
    assert len({*map(str, gather(score))}) == 1 and score == pytest.approx(norm.history.iloc[-1][['valid_loss', 'f1', 'iou', 'miou', 'miou_img']].tolist(), nan_ok=True)
    if not rank(): torch.save(dict(weights=learn.model.state_dict(), kept=kept.model.state_dict(), history=learn.history.drop(columns='seconds').to_dict('list'), best=best.best_epoch), out)

class Wait(Callback):
    "In the middle of epoch 2: write down who we are, and wait to be killed."
    order, run_valid = 70, False
    def __init__(self, file): self.file = Path(file)
    def after_batch(self):
        if (self.epoch, self.iter) == (2, 1): self.file.with_suffix(f'.{rank()}').write_text(f'{os.getpid()} {os.getppid()}'); time.sleep(120)

def resume(out, state, wait=None):
    "A resumable training; its result in `out`."
    learn, best = learner(), KeepBest('valid_loss')
    with learn.no_logging(): resume_fit(learn, state, 4, cbs=[best, *([Wait(wait)] if wait else [])])
    if not rank(): torch.save(dict(weights=learn.model.state_dict(), history=learn.history.drop(columns='seconds').to_dict('list'), best=best.best_epoch), out)

def both(out, state, other_out, other_state): resume(out, state); resume(other_out, other_state)

class Spoil(Callback):
    "On rank 1, in epoch 1: a loss or logits that are not numbers, or an error."
    order, run_valid = 6, False
    def __init__(self, what): self.what = what
    def _now(self, what): return (self.what, rank(), self.epoch) == (what, 1, 1)
    def after_pred(self):
        if self._now('logits'): self.learn.pred = self.pred*float('nan')
    def after_loss(self):
        if self._now('error'): raise RuntimeError('on purpose')
        if self._now('loss'): self.learn.loss_grad = self.loss_grad*float('nan')

def spoil():
    "NaNs on one rank, which all notice and one explains; then an error on one rank."
    learn = learner()
    model, loaders = learn.model, list(learn.dls.loaders)
    for what in ('loss', 'logits'):
        with learn.no_logging(), pytest.raises(FloatingPointError, match='another rank' if rank() == 0 else 'is nan at epoch 1'): learn.fit_poly(2, cbs=[StopOnNaN(), Spoil(what)])
        assert learn.model is model and learn.dls.loaders == loaders
        print('all noticed', flush=True)
    with learn.no_logging(): learn.fit_poly(2, cbs=Spoil('error'))

def command(*argv):
    "`cdkd_mtkd` with a network of this file."
    from cdkd.cli import mtkd
    register_cd('small_net', cd_recipe(lr=3e-3, wd=.05, loss='ce+dice'))(lambda n_out=2, in_chans=3, **kw: net())
    sys.argv = ['cdkd_mtkd', '--arch', 'small_net', '--size', '32', '--epochs', '1', *argv]
    mtkd()

if __name__ == '__main__':
    torch.set_num_threads(1)
    what, *args = sys.argv[1:]
    if what == 'command': command(*args)
    else:
        with process_group(): globals()[what](*args)
    sys.exit()

# ---------------------------------------------------------------------------------------------------- the tests

def start(*args, n=2):
    "Start this file on `n` processes; `torchrun` finds a free port itself."
    how = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(n)] if n > 1 else []
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CDKD_NO_BAR': '1', 'PYTHONWARNINGS': 'ignore'}
    return subprocess.Popen([sys.executable, *how, __file__, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)

def finish(p, ok=True):
    try: out, err = p.communicate(timeout=200)
    except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL); raise
    assert (p.returncode == 0) == ok, out + err
    return out, err

def result(file): return torch.load(file, weights_only=True)

def same(one, two, exact=False):
    assert one['best'] == two['best']
    for w in ('weights', 'kept'):
        for k, v in one.get(w, {}).items(): torch.testing.assert_close(two[w][k], v, rtol=0, atol=0 if exact else 1e-6)
    for k, v in one['history'].items():
        np.testing.assert_allclose(two['history'][k], v, rtol=0, atol=1e-6 if not exact and ('loss' in k or k.startswith('kd_')) else 0, err_msg=k)

def test_two_do_what_one_does(tmp_path):
    p = start('distil', tmp_path/'two.pt')
    distil(tmp_path/'one.pt')
    finish(p)
    one = result(tmp_path/'one.pt')
    assert one['history']['f1'][-1] > 0 and not torch.equal(one['weights']['net.net.0.weight'], net().state_dict()['net.net.0.weight'])
    same(one, result(tmp_path/'two.pt'))       # scores are compared exactly

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='no SIGKILL on this system')
def test_killed_and_continued(tmp_path):
    cut = start('resume', tmp_path/'x.pt', tmp_path/'cut.pt', tmp_path/'ready')
    files, begun = [tmp_path/'ready.0', tmp_path/'ready.1'], time.time()
    while not all(f.exists() and f.read_text() for f in files):
        assert cut.poll() is None and time.time()-begun < 200, cut.communicate()
        time.sleep(.05)
    for pid in (cut.pid, *(int(f.read_text().split()[0]) for f in files)): os.kill(pid, signal.SIGKILL)
    cut.communicate()
    (tmp_path/'alone.pt').write_bytes((tmp_path/'cut.pt').read_bytes())
    p = start('both', tmp_path/'cut_result.pt', tmp_path/'cut.pt', tmp_path/'whole_result.pt', tmp_path/'whole.pt')
    resume(tmp_path/'alone_result.pt', tmp_path/'alone.pt')        # one process goes on where two were
    finish(p)
    same(result(tmp_path/'whole_result.pt'), result(tmp_path/'cut_result.pt'), exact=True)
    same(result(tmp_path/'whole_result.pt'), result(tmp_path/'alone_result.pt'))
    assert [p.name for p in tmp_path.glob('.*')] == []

def test_they_stop_together():
    begun = time.time()
    out, err = finish(start('spoil'), ok=False)
    assert out.count('all noticed') == 2 and 'on purpose' in err and time.time()-begun < 100

def test_the_command(tmp_path):
    from cdkd.synth import synth_dataset
    synth_dataset(tmp_path/'pairs', dict(train=12, val=5, test=5), size=32, workers=1)
    args = 'command', '--data', tmp_path/'pairs'
    out, err = finish(start(*args, '--bs', 3, '--out', tmp_path/'odd'), ok=False)
    assert 'bs=3 cannot be shared out evenly over 2 processes' in err and not (tmp_path/'odd').exists()
    first, second = (finish(start(*args, '--bs', 4, '--out', tmp_path/o, n=n)) for o, n in (('one', 1), ('two', 2)))
    assert [l.split(',')[0] for l in second[0].splitlines() if l.startswith('seed 0')] == [l.split(',')[0] for l in first[0].splitlines() if l.startswith('seed 0')]
    files = [sorted(p.relative_to(tmp_path/o).as_posix() for p in (tmp_path/o).rglob('*') if p.is_file()) for o in ('one', 'two')]
    assert files[0] == files[1] and 'scores.csv' in files[0]
    a, b = (pd.read_csv(tmp_path/o/'scores.csv') for o in ('one', 'two'))
    assert a['model'].tolist() == b['model'].tolist() and len(json.loads((tmp_path/'two'/'run.json').read_text())['sessions']) == 1
    scores = ['f1', 'iou', 'miou', 'precision', 'recall', 'acc']
    np.testing.assert_allclose(a[scores], b[scores], atol=2e-3)
