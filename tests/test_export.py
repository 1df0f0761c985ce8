"""From loaders to exported tables with data that are no pleasure: one pair, nothing changed, JPEG masks, images of several sizes; and a process that is killed while it writes."""
import json, multiprocessing as mp, signal, time
from pathlib import Path

import numpy as np, pandas as pd, pytest
from cdkd.data.block import cd_dls
from cdkd.data.sets import fake_dataset
from cdkd.evaluate import evaluate, show_table
from cdkd.export import data_hash, export_table, load_scores, save_scores
from cdkd.fixtures import synth_dls
from cdkd.models.registry import CDModel, CDOut
from cdkd.published import compare_with_paper
from PIL import Image

class Brighter(CDModel):
    name = 'brighter'
    def __init__(self): super().__init__(n_out=1)
    def _outputs(self, a, b): return CDOut((b-a).mean(1, keepdim=True) - .3)

def round_trip(dls, out, split='test'):
    scores = evaluate(Brighter(), dls, split=split, bins='paper'); scores.attrs['protocol'] = dict(data='x', split=split)
    record = save_scores(scores, out/'s.csv', dls); back = load_scores(out/'s.json')
    num = [c for c in scores.select_dtypes('number')]
    pd.testing.assert_frame_equal(back[num], scores[num], check_exact=True); assert record['data_hash'] == {split: data_hash(dls, split)}
    for name in ('t.tex', 't.md', 't.csv'): export_table(show_table(back, bins='paper'), out/name)                # the table brings protocol and record along
    assert json.loads((out/'t.md.json').read_text())['record']['table']['sha256'] == record['table']['sha256']
    return back

def test_a_table_of_unknown_origin(tmp_path):
    with pytest.warns(UserWarning, match='does not say how its scores were made'): export_table(pd.DataFrame(dict(f1=[.5])), tmp_path/'t.md')
    assert json.loads((tmp_path/'t.md.json').read_text())['record'] is None

def test_one_pair(tmp_path): assert round_trip(synth_dls(2, 1, 1), tmp_path)['n'].max() == 1
def test_nothing_changed(tmp_path):
    t = round_trip(synth_dls(3, 2, 3, car=0.), tmp_path); assert t.loc[(t['protocol'] == 'pooled') & (t['bins'] == 'all'), 'recall'].isna().all()      # 0/0 stays open, in the file too

def test_jpeg_masks(tmp_path):
    fake_dataset('cdd', tmp_path/'d', n=3, size=64); dls = cd_dls(tmp_path/'d', spec='cdd', bs=2, num_workers=0, cache=False, aug=None)
    round_trip(dls, tmp_path)

def test_unequal_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for split, sizes in dict(train=(64, 64), val=(64, 96), test=(96, 64, 80)).items():
        for i, n in enumerate(sizes):
            for k in ('A', 'B', 'label'):
                f = tmp_path/'d'/split/k/f'{i}.png'; f.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8) if k != 'label' else (rng.random((n, n)) > .8).astype(np.uint8)*255).save(f)
    round_trip(cd_dls(tmp_path/'d', bs=2, num_workers=0, cache=False, aug=None), tmp_path)

def test_a_real_evaluation_is_refused_where_it_must(tmp_path):
    s = evaluate(Brighter(), synth_dls(2, 2, 3), split='test', bins='paper')
    with pytest.raises(ValueError) as e: compare_with_paper(s, 'mtkd_jl1cd', models={'brighter': 'TinyCD'})
    assert 'theirs 1000, yours 3' in str(e.value)

def test_a_file_is_taken_away_while_hashing(tmp_path):
    fake_dataset('levir', tmp_path/'d', n=2, size=64); dls = cd_dls(tmp_path/'d', spec='levir', bs=1, num_workers=0, cache=False, aug=None)
    Path(dls.pairs.loc[dls.pairs['split'] == 'test', 'mask'].iloc[0]).unlink()
    with pytest.raises(Exception, match='cannot be read'): data_hash(dls, 'test')

def write_for_ever(path):
    i = 0
    while True: i += 1; save_scores(pd.DataFrame({'model': ['m']*2000, 'f1': [i/7]*2000}), path)

@pytest.mark.skipif('fork' not in mp.get_all_start_methods() or not hasattr(signal, 'SIGKILL'), reason='needs fork and kill -9')
def test_killed_while_writing(tmp_path, monkeypatch):
    "Whatever is left after a kill is a whole table with its record, or it is refused: never a table with the record of another."
    for f in ('environment', 'git_commit'): monkeypatch.setattr(f'cdkd.export.{f}', lambda: None)        # so that nearly all the time goes into writing
    save_scores(pd.DataFrame({'model': ['m'], 'f1': [.5]}), tmp_path/'s.csv'); whole = refused = 0
    for k in range(25):
        p = mp.get_context('fork').Process(target=write_for_ever, args=(tmp_path/'s.csv',)); p.start()
        time.sleep(.06 + .0037*k); p.kill(); p.join()
        try: assert load_scores(tmp_path/'s.csv')['f1'].nunique() == 1; whole += 1
        except ValueError as e: assert 'is not the table that s.json is about' in str(e); refused += 1
    assert whole + refused == 25 and whole
