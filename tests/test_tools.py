"The checks are checked: each must fail on what it is there to find."
import argparse, configparser, json, sys, time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tools'))
import check, readme

def code(src, outputs=()): return dict(cell_type='code', metadata={}, execution_count=None, source=src.splitlines(True), outputs=list(outputs))
def md(src): return dict(cell_type='markdown', metadata={}, source=src.splitlines(True))
def nb(*cells): return dict(cells=list(cells), metadata={}, nbformat=4, nbformat_minor=5)
def stream(t, name='stdout'): return dict(output_type='stream', name=name, text=[t])
def faults(*cells): return ' '.join(check.cell_faults(nb(code('#| default_exp core'), *cells)))

def test_good_cell_passes():
    assert not faults(code('#| export\ndef f(): return 1'), code('f()', [stream('1')]), code('#| hide\nimport nbdev; nbdev.nbdev_export()'))

@pytest.mark.parametrize('cell,says', [
    (code('#| export\n' + '\n'.join(f'x{i} = {i}' for i in range(61))), '61 lines'),
    (code('#| skip_exec\n1'), 'skip_exec'),
    (code('#| export\nfrom fastai.vision.all import *'), 'by name'),
    (code('p', [stream('/home/' + 'somebody/data')]), 'path of one machine'),
    (code('open("/root' + '/x")'), 'path of one machine'),
    (code('p', [stream('50%|█████     |')]), 'progress bar'),
    (code('p', [stream('UserWarning: no', 'stderr')]), 'stored stderr'),
    (code('p', [dict(output_type='error', ename='ValueError', evalue='', traceback=[])]), 'stored traceback'),
    (code('w', [dict(output_type='display_data', metadata={}, data={'application/vnd.jupyter.widget-view+json': {}, 'text/plain': ['x']})]), 'static picture'),
    (code('import os\nx = 1'), 'hidden import cell'),
    (code('def f():\n    import os\nf()'), 'hidden import cell'),
])
def test_bad_cell_is_found(cell, says): assert says in faults(cell)

def test_layers():
    dec = {'core': 0, 'data.sets': 1, 'models.zoo': 2}
    low = nb(code('#| default_exp core'), code('#| export\nfrom cdkd.models.zoo import create_cd_model'))
    assert 'imports models.zoo of layer 2x' in ' '.join(check.layer_faults('00_core.ipynb', low, dec))
    inside = nb(code('#| default_exp core'), code('#| export\ndef f():\n    from cdkd.data import sets'))
    assert 'imports data.sets' in ' '.join(check.layer_faults('00_core.ipynb', inside, dec))
    fine = nb(code('#| default_exp models.zoo'), code('#| export\nfrom cdkd.core import seeded\nfrom cdkd.data.sets import cd_pairs'), code('from cdkd.models.zoo import x'))
    assert not list(check.layer_faults('29_models.zoo.ipynb', fine, dec))
    every = nb(code('#| default_exp core'), code('from cdkd.all import *'))
    assert 'cdkd.all is for tutorials' in ' '.join(check.layer_faults('00_core.ipynb', every, dec))

def test_relative_imports_resolve():
    assert 'models.zoo' in set(check.imported_modules('from ..models.zoo import x', 'distill.op'))
    assert 'core' in set(check.imported_modules('from .core import x', 'car'))

def context(tmp, **kw):
    work = tmp/'work'; (work/'nbs').mkdir(parents=True)
    (work/'settings.ini').write_text((ROOT/'settings.ini').read_text())
    ini = configparser.ConfigParser(delimiters=['='], interpolation=None); ini.read(ROOT/'settings.ini')
    args = argparse.Namespace(**{**dict(nb=None, flags='', workers=1, timeout=60., x=False), **kw})
    return check.Ctx(work, tmp, args, ini['DEFAULT'])

def put(c, name, *cells): (c.work/'nbs'/name).write_text(json.dumps(nb(*cells)))

def test_notebooks_fail_hang_and_die(tmp_path):
    "A failing, a hanging and a crashing notebook are each one failure; the others still run."
    c = context(tmp_path, timeout=15.)
    put(c, '00_good.ipynb', code('assert True'))
    put(c, '01_bad.ipynb', code('assert False, "this is wrong"'))
    put(c, '02_hang.ipynb', code('import time; time.sleep(999)'))
    put(c, '03_dead.ipynb', code('import os; os._exit(3)'))
    put(c, '04_slow.ipynb', code('#| slow\nassert False'))
    put(c, '05_litter.ipynb', code('open("litter.txt", "w").close()'))
    t = time.time(); res = {r.name: r for r in check.notebooks(c)}
    assert time.time()-t < 90
    ok = {k.removeprefix('nbs/').removesuffix('.ipynb'): r.ok for k, r in res.items()}
    assert ok == {'00_good': True, '01_bad': False, '02_hang': False, '03_dead': False, '04_slow': True, '05_litter': True, 'notebooks leave nothing behind': False}
    assert 'this is wrong' in res['nbs/01_bad.ipynb'].note and 'stopped after' in res['nbs/02_hang.ipynb'].note and 'process died' in res['nbs/03_dead.ipynb'].note and 'litter.txt' in res['notebooks leave nothing behind'].note

def test_sync_finds_stale_modules_and_dirty_notebooks(tmp_path):
    c = context(tmp_path)
    put(c, '00_core.ipynb', dict(code('#| default_exp core'), execution_count=7), code('#| export\nx = 1'))
    (c.work/'cdkd').mkdir(); (c.work/'cdkd/__init__.py').write_text('__version__ = "0.1.0"\n')
    (c.work/'cdkd/old.py').write_text('# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/09_old.ipynb.\n')
    res = {r.name: r for r in check.sync(c)}
    assert not res['nbdev_clean changes nothing'].ok and '00_core.ipynb' in res['nbdev_clean changes nothing'].note
    note = res['nbdev_export changes nothing'].note
    assert not res['nbdev_export changes nothing'].ok and 'gone: cdkd/old.py' in note and 'new: cdkd/core.py' in note

def test_differences(): assert check.differences({'a': 1, 'b': 1, 'c': 1}, {'b': 2, 'c': 1, 'd': 1}) == ['new: d', 'gone: a', 'changed: b']

# ------------------------------------------------------------------------------------------------ README

def test_readme_cells():
    text = readme.readme(nb(
        md('# Title\n\n![fig](../figures/x.png) and [a page](tutorials/01.ipynb#top), [out](https://x.org), <img src="../figures/y.png">\n\n```sh\ncat ../figures/x.png\n```'),
        md('::: {.callout-note title="Mind"}\nA line\n:::\nafter'),
        code('#| hide\nsecret = 1'), code('#| echo: false\nprint("x")', [stream('shown\n')]), code('1+1', [dict(output_type='execute_result', metadata={}, execution_count=None, data={'text/plain': ['2']})]),
        code('t', [dict(output_type='display_data', metadata={}, data={'text/markdown': ['| a |\n|---|'], 'text/plain': ['x']})])))
    assert '![fig](figures/x.png)' in text and '(nbs/tutorials/01.ipynb#top)' in text and '(https://x.org)' in text and 'src="figures/y.png"' in text
    assert 'cat ../figures/x.png' in text                                    # code is left alone
    assert '> [!NOTE]\n> **Mind**\n>\n> A line\nafter' in text
    assert 'secret' not in text and 'print("x")' not in text and '    shown' in text
    assert '```python\n1+1\n```\n\n    2' in text and '| a |\n|---|' in text

def test_readme_refuses_pictures_in_outputs():
    with pytest.raises(SystemExit, match='figures/'): readme.readme(nb(code('p', [dict(output_type='display_data', metadata={}, data={'image/png': 'xx'})])))
