"""Every figure of `cdkd.published` is the figure of the fact sheets, and none is left out; read here a second time, by other code. Hostile input for `compare_with_paper`."""
import re

import numpy as np, pandas as pd, pytest
from cdkd.metrics import score_table
from cdkd.published import PAPER_TABLES, compare_with_paper, list_published, published, published_table
from cdkd.testing import shared_dir

facts = pytest.mark.skipif(shared_dir('spec/mtkd.md') is None or shared_dir('spec/other_systems.md') is None, reason='the fact sheets are not at hand')

def section(file, start, end): # Text of `file` between two headings
    text = shared_dir(f'spec/{file}').read_text(encoding='utf-8')
    return text.split(start, 1)[1].split(end, 1)[0]
def grid(text): # Cells of the Markdown tables in `text`, without rules and bold type
    return [[c.strip().replace('**', '') for c in l.strip().strip('|').split('|')] for l in text.splitlines() if l.strip().startswith('|') and not re.match(r'\s*\|[\s:|-]+$', l)]
def have(*tables): # {(table, model, method, metric): as printed}
    return {(r.table, r.model, r.method, r.metric): r.printed for t in tables for r in published(t).itertuples()}
M4 = ('miou', 'macc', 'mprecision', 'mf')

@facts
def test_mtkd_table_3():
    want = {('mtkd_jl1cd', r[0], m, k): v for r in grid(section('mtkd.md', '### 6.1', '### 6.2'))[1:] for m, c in zip(('baseline', 'O-P', 'MTKD'), r[1:]) if c != '–' for k, v in zip(M4, c.split('/'), strict=True)}
    assert len(want) == 256 and have('mtkd_jl1cd') == want

@facts
def test_mtkd_table_4():
    text = section('mtkd.md', '### 6.2', '### 6.3')
    want = {('mtkd_classes', m, 'MTKD - baseline', k): v for m, c in re.findall(r'([A-Z][\w-]+) ([+−][^\s·]+)', text) for k, v in zip(('iou', 'recall', 'precision', 'f1'), c.rstrip('.').split('/'), strict=True)}
    assert len(want) == 40 and have('mtkd_classes') == want and '±0.65' in text and '±0.65' in PAPER_TABLES['mtkd_classes'].note

@facts
def test_mtkd_table_5_and_6():
    rows = grid(section('mtkd.md', '### 6.3', '### 6.4')); want = {}
    for r in rows[1:]:
        for m, c in zip(('O-P, 3 teachers', 'O-P, 2 teachers', 'MTKD, 3 teachers', 'MTKD, 2 teachers'), r[1:], strict=True):
            want |= {('mtkd_teachers', r[0], m, k): v for k, v in zip(M4, re.findall(r'[\d.]+', c))}
    assert len(want) == 40 and have('mtkd_teachers') == want
    assert 'could not be retrieved' in section('mtkd.md', '### 6.4', '### 6.5') and not have('mtkd_sysu')

NAMES = {'FC-Siam-diff': 'FC-Siam-Diff', 'FC-Siam-conc': 'FC-Siam-Conc', 'CGNet (256², 100 ep)': 'CGNet', 'ChangeStar-r18 (FarSeg 1×96)': 'ChangeStar-FarSeg'}
PRFI = ('precision', 'recall', 'f1', 'iou')

@facts
def test_opencd_levir():
    want, text = {}, section('mtkd.md', '### 6.5', '\nBAN (IoU)')
    for r in grid(text)[1:]:
        for name, *cells in (r[:5], r[6:]):
            sizes = re.fullmatch(r'(\S+) ([\w/]+/[\w/]+)', name)
            each = [(f'{sizes[1]}-{s}', [c.split('/')[i].strip() if c else '' for c in cells]) for i, s in enumerate(sizes[2].split('/'))] if sizes else [(NAMES.get(name, name), cells)]
            want |= {('opencd_levir', n, 'trained', k): v for n, cs in each for k, v in zip(PRFI, cs, strict=True) if v not in ('', '–')}
    assert len(want) == 88 and have('opencd_levir') == want

@facts
def test_opencd_others():
    text = ' '.join(section('mtkd.md', '\nBAN (IoU)', '\n---').split()); ban, rest = text.split('S2Looking IoU:')
    want = {('opencd_levir_ban', 'L14+b2', 'trained', k): re.search(rf'\b{p} ([\d.]+)', ban)[1] for p, k in (('P', 'precision'), ('R', 'recall'), ('F1', 'f1'))}
    prefix = ''
    for part in re.split(r', | / ', re.sub(r'\([^)]*\)', '', ban).lstrip(': ').rstrip('. ')):
        *name, value = part.split()
        if name[0] in ('RemoteCLIP', 'GeoRSCLIP', 'IN21K'): prefix = name[0] + ' '
        want['opencd_levir_ban', ' '.join(name) if name[0] == prefix.strip() or not prefix else prefix + name[0], 'trained', 'iou'] = value
    changer, ban2, svcd = re.match(r' Changer (.*?); BAN (.*?)\. SNUNet on SVCD: (.*?)\.?$', rest).groups()
    want |= {('opencd_s2looking', f'Changer-{n}', 'trained', 'iou'): v for n, v in (x.split() for x in changer.split(', '))}
    want |= {('opencd_s2looking', f'BAN {n}', 'trained', 'iou'): v for n, v in (x.split() for x in ban2.split(', '))}
    want |= {('opencd_svcd', 'SNUNet', 'trained', k): v for k, v in zip(PRFI, re.findall(r'\d+\.\d+', svcd), strict=True)}
    assert len(want) == 24 and have('opencd_levir_ban', 'opencd_s2looking', 'opencd_svcd') == want

@facts
def test_senseearth():
    a5 = dict(re.findall(r'((?:FCN|PSP)-W\d+) \(([\d.]+)\)', section('other_systems.md', '## A.5', '## A.6'))); a7 = section('other_systems.md', '## A.7', '## A.8')
    key = lambda m, when: ('senseearth_val', m, f'{when} pseudo labels', 'score')
    want = {key(m, 'before'): v for m, v in a5.items()} | {key(m, 'after'): v for m, v in re.findall(r'(PSP-W\d+) ([\d.]+)', a7)}
    want[key('W40 (issue 19)', 'before')], want[key('PSP-W18 (a user)', 'before')] = re.search(r'W40 (~[\d.]+) before', a7)[1], re.search(r'a user obtained ([\d.]+)', a7)[1]
    gains = dict(re.findall(r'(class weighting|pseudo labels|TTA\+ensemble) (~\+\d)', a7))
    want |= {('senseearth_gains', m.replace('+', ' and '), 'gain', 'score'): v for m, v in gains.items()}
    assert len(want) == 12 and have('senseearth_*') == want

@facts
def test_t2fts():
    text = section('other_systems.md', '## B.7', '## B.8'); want = {}
    for name, part in zip(('fgsc23', 'dota'), re.split(r'\n DOTA:', text)):
        part = ' '.join(part.split('The paper')[0].replace('**', '').split()); d = r'([\d.]+)'
        groups = [re.search(rf'baseline(?: ResNet-50)? overall {d} \(head {d}, mid {d}, tail {d}', part).groups(), re.search(rf'student overall {d} \(head {d}, mid {d}, tail {d}', part).groups()]
        means = (re.search(rf'mean-class: baseline {d} -> student {d}', part) or re.match(rf'.*?mean-class {d}\).*?mean-class {d};', part)).groups()
        for m, g, x in zip(('baseline', 'student'), groups, means): want |= {(f't2fts_{name}', 'ResNet-50', m, k): v.rstrip('.') for k, v in zip(('overall', 'head', 'middle', 'tail', 'mean_class'), (*g, x))}
        want |= {(f't2fts_{name}_teachers', 'ResNet-50', 'teachers', k): v.rstrip('.') for k, v in zip(('head', 'middle', 'tail'), re.search(rf't1 {d}, t2 {d}, t3 {d}', part).groups())}
        want |= {(f't2fts_{name}_classes', 'ResNet-50', 'student', f'class_{i}'): v for i, v in enumerate(re.search(r'per class 0\.\.\d+: ([\d. ]+?)(?: [A-Z]|$)', part)[1].split())}
    assert len(want) == 64 and have('t2fts_*') == want

@facts
def test_cmid():
    head, *rows = grid(section('other_systems.md', '## C.8', '## C.9'))
    assert head[1:] == ['UCM OA', 'Potsdam mIoU', 'VH mIoU', 'DOTA mAP', 'CDD mF1']
    columns = (('ucm', 'accuracy'), ('potsdam', 'miou'), ('vaihingen', 'miou'), ('dota', 'map'), ('cdd', 'f1'))
    want = {(f'cmid_{t}', r[0], 'fine-tuned', k): v for r in rows for (t, k), v in zip(columns, r[1:], strict=True) if v != '-'}
    assert len(want) == 46 and have('cmid_*') == want

def test_nothing_else(): assert len(published()) == 256 + 40 + 40 + 88 + 24 + 12 + 64 + 46 == list_published()['figures'].sum()

# ---------------------------------------------------------------------------------------------------- hostile input

RECORD = dict(data='JL1-CD', split='test', n=1000, size='stored', tiled=False, threshold='model', empty='paper', checkpoint='valid', labels='>=128')
@pytest.fixture
def scores():
    rng = np.random.default_rng(0); c = rng.integers(1, 900, (1000, 4))
    s = score_table(c, {'paper': rng.integers(0, 3, 1000)}, {'paper': ('small', 'medium', 'large')}).assign(seed=0, model='tinycd', split='test', size_note='at the stored size')
    s.attrs['protocol'] = dict(RECORD); return s

def fails(says, *args, kind=ValueError, **kw):
    with pytest.raises(kind) as e: compare_with_paper(*args, **kw)
    assert says in str(e.value), str(e.value)

def test_rows_of_bins_do_not_count(scores):
    assert len(compare_with_paper(scores, 'mtkd_jl1cd')) == 4
    fails('no rows over all pairs', scores[scores['bins'] == 'paper'], 'mtkd_jl1cd')
    fails('no rows over all pairs', scores.iloc[:0], 'mtkd_jl1cd')

def test_columns_that_lack_or_mix(scores):
    for c in ('seed', 'model', 'protocol', 'n'): fails(f'no column {c!r}', scores.drop(columns=c), 'mtkd_jl1cd')
    fails('mix several values of split', pd.concat([scores, scores.assign(split='val', model='other')]), 'mtkd_jl1cd', protocol=RECORD)
    fails('in the table twice', pd.concat([scores, scores]), 'mtkd_jl1cd', protocol=RECORD)
    fails('nothing that both have', scores[['seed', 'model', 'protocol', 'bins', 'bin', 'n', 'split', 'f1']], 'mtkd_jl1cd')

def test_a_column_contradicts_the_record(scores):
    fails("their own columns say n = 70, the scores were made with 1000", scores.assign(n=70), 'mtkd_jl1cd')
    fails("protocol=... say checkpoint = 'val', the scores were made with 'test'", _with(scores, checkpoint='test'), 'mtkd_jl1cd', protocol=dict(checkpoint='val'))

def _with(scores, **kw): s = scores.copy(); s.attrs['protocol'] = {**RECORD, **kw}; return s

def test_every_unlike_item_is_listed_at_once(scores):
    s = _with(scores, data='my set', split='val', n=12, size='resized to 256 px', tiled='256 px', threshold='best on test', empty='nan', checkpoint='test').assign(split='valid', n=12, size_note='resized to 256 px')
    s = s[s['protocol'] == 'pooled']
    with pytest.raises(ValueError) as e: compare_with_paper(s, 'mtkd_jl1cd')
    for item in ('averaging', 'data set', 'split', 'number of pairs', 'image size', 'tiling', 'threshold', 'data the checkpoint', 'rule for 0/0'): assert f'\n  {item}' in str(e.value), (item, str(e.value))
    out = compare_with_paper(s, 'mtkd_jl1cd', anyway=True)
    assert out['comparable'].str.startswith('not comparable: ').all() and out.attrs['caption'].startswith('NOT COMPARABLE')

def test_what_is_not_on_record_is_asked_for(scores):
    s = scores.copy(); s.attrs = {}
    fails("protocol=dict(data='JL1-CD', tiled=False, threshold='model', labels='>=128', checkpoint='val', empty='paper')", s, 'mtkd_jl1cd')
    said = dict(data='JL1-CD', tiled=False, threshold='model', labels='>=128', checkpoint='val', empty='paper')        # as the message says
    assert (compare_with_paper(s, 'mtkd_jl1cd', protocol=said)['comparable'] == 'yes').all()
    for v in (None, float('nan')): fails('not on record of yours: data set', _with(scores, data=v), 'mtkd_jl1cd')
    assert 'yours not on record' in compare_with_paper(s, 'mtkd_jl1cd', anyway=True)['comparable'].iloc[0]

def test_one_row_of_several_is_unlike(scores):
    two = pd.concat([scores, scores.assign(model='ifn')], ignore_index=True); two.attrs['protocol'] = {**RECORD, 'threshold': .5}
    fails('threshold: theirs 0.3, yours 0.5', two, 'mtkd_jl1cd')
    out = compare_with_paper(two, 'mtkd_jl1cd', anyway=True, metrics='miou')
    assert out.loc['tinycd', 'comparable'] == 'yes' and out.loc['ifn', 'comparable'].startswith('not comparable') and out.attrs['caption'].startswith('NOT COMPARABLE in 1 of 2 rows')

def test_the_threshold_is_that_of_each_model(scores):
    s = _with(scores, threshold="each model's own", thresholds=dict(tinycd=.2, other=.5)); fails('threshold: theirs 0.5, yours 0.2', s, 'mtkd_jl1cd')
    assert (compare_with_paper(_with(scores, threshold="each model's own", thresholds=dict(tinycd=.5, other=.2)), 'mtkd_jl1cd')['comparable'] == 'yes').all()
    fails("protocol=... say threshold = 'model', the scores were made with 0.2", _with(scores, threshold=.2), 'mtkd_jl1cd', protocol=dict(threshold='model'))
    fails("n is a number of images, not 'all'", scores, 'mtkd_jl1cd', protocol=dict(n='all'))
    fails('is a published model, or (model, method)', scores, 'mtkd_jl1cd', models={'tinycd': ('TinyCD', 'MTKD', 3)})
    assert len(compare_with_paper(scores, 'mtkd_jl1cd', models={'tinycd': ('TinyCD',)})) == 4

def test_names(scores):
    fails("models says which is which: {'tinycd': 'FC-EF'}, not ['TinyCD']", scores, 'mtkd_jl1cd', models=['TinyCD'])
    fails("no model 'tiny'", scores, 'mtkd_jl1cd', models={'tiny': 'TinyCD'}); fails("no model 'TinyNet'", scores, 'mtkd_jl1cd', models={'tinycd': 'TinyNet'})
    fails("has no figures for 'KD', only for baseline, O-P, MTKD", scores, 'mtkd_jl1cd', models={'tinycd': ('TinyCD', 'KD')})
    fails("FC-EF has no figures for 'MTKD'", scores, 'mtkd_jl1cd', models={'tinycd': ('FC-EF', 'MTKD')})
    fails("your scores have no 'f2'", scores, 'mtkd_jl1cd', metrics=['f2']); fails('Did you mean', scores, 'mtkd_jl1', kind=KeyError)
    assert compare_with_paper(scores.assign(model='origin', arch='tinycd'), 'mtkd_jl1cd')['published'].unique().tolist() == ['TinyCD']

def test_no_score_is_no_difference(scores):
    out = compare_with_paper(scores.assign(miou=np.nan), 'mtkd_jl1cd', metrics='miou')
    assert np.isnan(out['ours'].item()) and np.isnan(out['difference'].item()) and out['paper'].item() == 71.04

def test_pooled_asks_for_no_rule_for_empty(scores):
    s = _with(scores, data='LEVIR-CD', n=128).assign(n=128); s.attrs['protocol'].pop('empty')
    out = compare_with_paper(s, 'opencd_levir')
    assert (out['comparable'] == 'yes').all() and all(x in out.attrs['caption'] for x in ('tiling', 'data the checkpoint was chosen on', 'number of seeds'))

@pytest.mark.parametrize('name', list(PAPER_TABLES))
def test_every_table_is_laid_out_as_printed(name):
    rows = published(name)
    if not len(rows): pytest.skip(PAPER_TABLES[name].note)
    t = published_table(name)
    assert sorted(x for x in t.to_numpy().ravel() if x != '–') == sorted(rows['printed']) and rows['source'].iloc[0] in t.attrs['caption']
