"""A real kill -9 in the middle of an epoch: the same command continues and gives the numbers of an uninterrupted run."""
import json, os, signal, subprocess, sys, time

JOB = '''
import json, sys, time, torch
from fastai.callback.core import Callback
torch.set_num_threads(1)
from cdkd.callbacks import KeepBest, resume_fit
from cdkd.fixtures import synth_cd_learner
from cdkd.io import content_hash

state, ready = sys.argv[1:3]
class Wait(Callback):
    "In the middle of epoch 2: say so, and wait to be killed."
    order, run_valid = 70, False
    def after_batch(self):
        if (self.epoch, self.iter)==(2,1): open(ready, 'w').close(); time.sleep(120)

learn, best = synth_cd_learner(size=32, dls_kw=dict(aug='standard')), KeepBest('valid_loss')
with learn.no_logging(): resume_fit(learn, state, 4, lr_max=5e-3, warmup=.1, cbs=[best]+([Wait()] if ready!='-' else []))
print(json.dumps(dict(history=learn.history.drop(columns='seconds').values.tolist(), best=best.best_epoch, weights=content_hash(*learn.model.state_dict().values()),
                      opt=content_hash(*(v for s in learn.opt.state_dict()['state'].values() for v in s.values())))))
'''

def run(*args, **kw):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CDKD_NO_BAR': '1'}
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', JOB, *map(str, args)], stdout=subprocess.PIPE, text=True, env=env, **kw)

def finish(p):
    out, _ = p.communicate(timeout=300)
    assert p.returncode==0
    return json.loads(out.splitlines()[-1])

def test_kill_and_resume(tmp_path):
    whole, cut = run(tmp_path/'whole.pt', '-'), run(tmp_path/'cut.pt', tmp_path/'ready')   # side by side
    start = time.time()
    while not (tmp_path/'ready').exists():
        assert cut.poll() is None and time.time()-start<300, 'the job ended before it could be killed'
        time.sleep(.05)
    cut.send_signal(signal.SIGKILL); cut.wait()
    assert cut.returncode==-signal.SIGKILL and (tmp_path/'cut.pt').exists()
    assert not list(tmp_path.glob('.cut.pt.*'))   # written whole or not at all; the other process may be writing just now
    resumed = finish(run(tmp_path/'cut.pt', '-'))
    assert resumed==finish(whole)
    assert [row[1] for row in resumed['history']]==[0,1,2,3]
    assert finish(run(tmp_path/'cut.pt', '-'))==resumed    # once more: a finished run is loaded, not repeated
