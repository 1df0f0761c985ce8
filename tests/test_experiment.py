"A whole experiment killed with SIGKILL, twice, gives the numbers of one that was left alone."
import os, signal, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest

JOB = '''
import sys, torch
torch.set_num_threads(1)
from cdkd.experiments import MTKDExperiment
with MTKDExperiment(sys.argv[1], size=64, epochs=2, bs=4, n_synth=dict(train=12, val=6, test=6)) as exp: exp.go()
'''

def run(out, die_at=None):
    "Run the job; kill it as soon as it has printed `die_at`."
    env = {**os.environ, 'CDKD_NO_BAR': '1', 'OMP_NUM_THREADS': '1'}
    p = subprocess.Popen([sys.executable, '-c', JOB, out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    lines = []
    for line in p.stdout:
        lines.append(line)
        if die_at and line.startswith(die_at): p.send_signal(signal.SIGKILL); break
    err = p.communicate()[1]
    assert p.returncode == (-signal.SIGKILL if die_at else 0), err
    return lines

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='no SIGKILL on this system')
def test_killed_and_continued(tmp_path):
    whole = run(tmp_path/'whole')
    run(tmp_path/'killed', die_at='seed 0: small: epoch 1/')        # inside a teacher's training
    run(tmp_path/'killed', die_at='seed 0: mtkd_auto: epoch 1/2')   # inside a student's
    rest = run(tmp_path/'killed')
    assert any('mtkd_auto: epoch 2/2' in l for l in rest) and not any('origin' in l for l in rest), rest
    stages = [l.split(': ')[1] for l in whole if ': epoch ' in l]
    assert set(stages) == {'origin', 'small', 'medium', 'large', 'retrained', 'mtkd_1e-3', 'mtkd_auto', 'self_teacher', 'random_routing'}, stages
    for f in ('scores.csv', 'seed0/small/history.csv', 'seed0/mtkd_auto/history.csv', 'seed0/scores/op_predicted/counts.csv'):
        a, b = (pd.read_csv(tmp_path/d/f).drop(columns='seconds', errors='ignore') for d in ('whole', 'killed'))
        pd.testing.assert_frame_equal(a, b, check_exact=True)
