"""A distillation step never waits for its device: no `.item()`, no copy to the host, no decision by a number that lives there.

With a GPU this is CUDA's own alarm. Without one, the device is imitated: tensors that live there have a shape and a type but no numbers, so whoever asks for a number is caught, whatever the way."""
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cdkd.car import CarBins
from cdkd.distill.cache import Cached
from cdkd.distill.core import All, ByCAR, Distill, Frozen
from cdkd.losses.kd import LogitKL, LogitMSE
from cdkd.losses.seg import build_loss
from cdkd.models.registry import wrap_cd
from cdkd.models.zoo import create_cd_model


class Sync(RuntimeError): "The host waited for the device."

class Device(TorchDispatchMode):
    "What touches 'cuda' tensors happens to shapes alone; what would wait for them is an error. Host tensors are real."
    ops = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        there = any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs)))
        if not there and torch.device(kwargs.get('device') or 'cpu').type != 'cuda':
            with unset_fake_temporarily(): return func(*args, **kwargs)
        self.ops += 1
        if there and kwargs.get('device') is not None and torch.device(kwargs['device']).type == 'cpu': raise Sync(f'{func}: a copy to the host')
        host = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and not isinstance(x, FakeTensor) and x.ndim]
        if there and host and 'copy' not in str(func): raise Sync(f'{func}: a host tensor of shape {tuple(host[0].shape)} in a device operation')
        try:
            return func(*args, **kwargs)
        except Exception as e:
            if type(e).__name__ in ('DataDependentOutputException', 'DynamicOutputShapeException'): raise Sync(f'{func}: the host asked for numbers of the device') from e
            raise

@pytest.fixture
def device(monkeypatch):
    as_sub = Tensor.as_subclass                    # typed tensors are dropped; that must not undo the imitation
    monkeypatch.setattr(Tensor, 'as_subclass', lambda x, cls: x if isinstance(x, FakeTensor) else as_sub(x, cls))
    monkeypatch.setattr(torch.autograd, 'grad', lambda loss, z, **kw: (torch.zeros_like(z),))       # the engine itself wants a real device
    with FakeTensorMode(allow_non_fake_inputs=True), Device() as d: yield d

def test_the_alarm_rings(device):
    x = torch.zeros(4, 3, device='cuda')
    host = torch.arange(4)
    assert host.nonzero().shape == (3, 1) and float(host.sum()) == 6.                  # the host may do what it likes
    for f in (lambda: x.sum().item(), lambda: float(x.mean()), lambda: bool((x > 0).any()), lambda: x[x > 0], lambda: x.nonzero(), lambda: x.cpu(), lambda: x.to('cpu'), lambda: x.tolist(), lambda: x[torch.tensor([0, 2])]):
        with pytest.raises(Sync): f()
    assert x[host.to('cuda', non_blocking=True)].shape == (4, 3) and (x*2).mean().ndim == 0

class Net(nn.Module):
    def __init__(self): super().__init__(); self.c = nn.Conv2d(6, 2, 3, padding=1)
    def forward(self, a, b): return self.c(torch.cat([a, b], 1))

def on_device(make):
    with torch.device('cuda'): return make()

class Store(Cached):
    "Cached targets without their files."
    def setup(self, kd): self.slots = torch.arange(self.n_slots).repeat(12, 1) if self.n_slots > 1 else torch.arange(12)[:, None] % 3

@pytest.mark.parametrize('kind', ['routed', 'all', 'cached', 'cached, all teachers'])
@pytest.mark.parametrize('weight', ['auto', .5])
def test_a_step(device, kind, weight):
    bins = CarBins((.2, .5))
    student, teachers = on_device(lambda: wrap_cd(Net(), n_out=2)), {n: on_device(lambda: wrap_cd(Net(), n_out=2)) for n in bins.names}
    source, maps = Frozen.__new__(Frozen), ()
    source.names, source.models, source.calls, source.setup = list(teachers), list(teachers.values()), 0, lambda kd: None
    if 'cached' in kind:
        source = Store(source); source.n_slots = 3 if 'all' in kind else 1
        source.store = SimpleNamespace(fields=[('native', None)]); maps = [torch.zeros(4, 2*source.n_slots, 16, 16, device='cuda')]
    kd = Distill(source, All(3) if kind == 'all' else ByCAR(bins), [LogitMSE(), LogitKL()], weight=weight)
    a, b, mask = (torch.zeros(4, *s, device='cuda', dtype=t) for s, t in (((3, 16, 16), torch.float32), ((3, 16, 16), torch.float32), ((16, 16), torch.long)))
    out = student(a, b, True)
    learn = kd.learn = SimpleNamespace(dls=SimpleNamespace(pairs=pd.DataFrame(dict(car=[.1, .3, .7]*4, split='train')), device=torch.device('cuda')), idx=torch.tensor([0, 4, 5, 7]), model=student, xb=(a, b), yb=(mask,), out=out,
                                        maps=maps, training=True, loss_grad=build_loss('ce')(out.native, mask), loss=None)
    kd.before_fit(); kd.before_train()
    ops = device.ops
    for _ in range(2): kd.after_loss()
    assert device.ops - ops > 50 and kd.per_sample.shape == (2, 4) and learn.loss_grad.device.type == 'cuda' and kd.n == 8

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('cached', [False, True])
def test_a_real_step(cached, tmp_path):
    from fastai.callback.core import Callback
    from cdkd.distill.mtkd import MTKD, Teachers
    from cdkd.fixtures import synth_cd_learner
    class Alarm(Callback):
        order, run_valid = 4, False
        def after_loss(self): torch.cuda.set_sync_debug_mode('error')
    class Off(Callback):
        order, run_valid = 6, False
        def after_loss(self): torch.cuda.set_sync_debug_mode('default')
    bins, learn = CarBins((.1, .3)), synth_cd_learner('tinycd', dls_kw=dict(device='cuda'))
    kd = MTKD(Teachers({n: create_cd_model('tinycd') for n in bins.names}, bins), weight='auto')
    try:
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3, cbs=[kd.cached(path=tmp_path/'t') if cached else kd, Alarm(), Off()])
    finally: torch.cuda.set_sync_debug_mode('default')
