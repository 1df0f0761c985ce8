"""Every registered model takes a training step as published and is distilled for a step; those with a vision transformer of hundreds of megabytes only with CDKD_SLOW=1."""
import os, pytest, torch
from cdkd.car import CarBins
from cdkd.core import seed_everything
from cdkd.distill.mtkd import MTKD
from cdkd.fixtures import synth_dls
from cdkd.learner import cd_learner
from cdkd.models.zoo import create_cd_model, list_cd_models

LARGE = [n for n in list_cd_models() if n.startswith(('ban_', 'ttp_'))]
slow = pytest.mark.skipif(not os.environ.get('CDKD_SLOW'), reason='large: set CDKD_SLOW=1')

@pytest.mark.parametrize('name', [pytest.param(n, marks=slow) if n in LARGE else n for n in list_cd_models()])
def test_trains_and_is_distilled(name):
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    try:
        seed_everything(0)
        dls, bins = synth_dls(n=4, n_valid=2, n_test=0, size=64, bs=4), CarBins((.2,))
        origin = create_cd_model(name)
        teachers = {k: origin.clone() for k in bins.names}
        for t in teachers.values():
            for p in t.parameters(): p.data += .05*p.data.std(unbiased=False)*torch.randn_like(p)      # each knows something else
        before = {k: v.clone() for k, v in origin.state_dict().items()}
        learn = cd_learner(dls, origin, recipe='paper', cbs=MTKD(teachers, bins, weight='auto'))
        with learn.no_bar(), learn.no_logging(): learn.fit_poly(1, warmup=0.)
        row = learn.history.iloc[-1]
        assert torch.isfinite(torch.tensor([row['train_loss'], row['valid_loss'], row['kd_logit_mse']], dtype=torch.float64)).all()
        assert row['kd_logit_mse'] > 0 and abs(row['kd_share'] - .1) < 1e-3
        frozen = {n for n, p in origin.named_parameters() if not p.requires_grad}
        moved = {n for n, p in origin.named_parameters() if not torch.equal(p, before[n])}
        assert moved and not moved & frozen
    finally: torch.set_num_threads(threads)
