"""The viewers in a real page: a Voila server, headless Chromium, real clicks and drags.

Skipped, with the reason, where there is no Chromium, Voila or Playwright (`pip install -e '.[dev]'` brings the last two; CDKD_CHROMIUM names a browser that is not on the path).
CDKD_SCREENSHOTS names a folder for pictures of what the tests saw.
"""
import base64, ctypes, io, os, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest

CHROMIUM = next(filter(None, [os.environ.get('CDKD_CHROMIUM'), *map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))]), None)
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage']
VIEWERS = ['view_pairs(dls, teacher, split="valid")', 'view_threshold(scored)', 'view_car(dls, n=2)', 'view_errors(scored, n=2)', 'view_disagreement(scored, n=2)']
SETUP = '''
import torch
from torch import nn
from torch.nn import functional as F
from cdkd.data.block import cd_dls
from cdkd.models.registry import CDModel, CDOut
from cdkd.widgets import score_pairs, view_car, view_disagreement, view_errors, view_pairs, view_threshold

class Difference(CDModel):
    def __init__(self, blur, name): super().__init__(n_out=1); self.blur, self.name = blur, name
    def _outputs(self, a, b):
        d = a-b; d = F.avg_pool2d(d - d.mean((2, 3), keepdim=True), self.blur, 1, self.blur//2, count_include_pad=False)
        return CDOut(5*(d.abs().mean(1, keepdim=True) - .5))          # misses some pairs, raises false alarms in others
teacher, student = Difference(9, 'blur_9'), Difference(1, 'blur_1')
dls = cd_dls(PATH, bs=4, num_workers=0, cache=False, device='cpu')
scored = score_pairs([teacher, student], dls)
'''

OFF = .25                                                       # mean difference of two pictures that are the same, in 0..255; they come from the same encoder

def gap(x, y):
    "Mean difference of two pictures; of unequal sizes, infinite."
    return np.inf if x.shape != y.shape else np.abs(x.astype(int) - y).mean()

def sent(picture):
    "A picture as it comes out at the other end."
    from PIL import Image
    from cdkd.widgets import _jpeg
    return np.asarray(Image.open(io.BytesIO(_jpeg(picture))).convert('RGB'))

def notebook(path, cells):
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    nbformat.write(nb, path)

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def die_with_parent():
    "In the server's process, on Linux: end when the tests are killed. Its kernels end when it does."
    if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, signal.SIGTERM)

def stop(p):
    "End the server with its kernels."
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try: os.killpg(p.pid, sig)
        except ProcessLookupError: break
        try: p.wait(5); break
        except subprocess.TimeoutExpired: pass

@pytest.fixture(scope='module')
def path(tmp_path_factory):
    "Nine synthetic pairs to look at."
    from cdkd.synth import synth_dataset
    return str(synth_dataset(tmp_path_factory.mktemp('viewers')/'synth', n=dict(train=4, val=9), size=64, seed=5, car=(0., .5), workers=1))

@pytest.fixture(scope='module')
def data(path):
    "What the notebook of the page holds, to compare with."
    here = dict(PATH=path); exec(SETUP, here)
    return here

@pytest.fixture(scope='module')
def server(path, tmp_path_factory):
    "A Voila server of one notebook with all five viewers; its address."
    if CHROMIUM is None: pytest.skip('no Chromium or Chrome on the path; CDKD_CHROMIUM may name one')
    pytest.importorskip('voila', reason="no Voila: pip install -e '.[dev]'"); pytest.importorskip('playwright', reason="no Playwright: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp('served'); notebook(folder/'viewers.ipynb', [f"PATH = {path!r}\n{SETUP}", *VIEWERS]); port = free_port()
    root = Path(__file__).resolve().parents[1]; env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')])), 'CDKD_NO_BAR': '1', 'OMP_NUM_THREADS': '1', 'HOME': str(folder)}
    log = open(folder/'voila.log', 'w+')
    p = subprocess.Popen([sys.executable, '-m', 'voila', 'viewers.ipynb', '--no-browser', f'--port={port}', '--show_tracebacks=True'], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent)
    try:
        for _ in range(200):
            if p.poll() is not None: break
            try: socket.create_connection(('127.0.0.1', port), .2).close(); break
            except OSError: time.sleep(.1)
        log.seek(0); assert p.poll() is None, f'Voila ended: {log.read()[-2000:]}'
        yield f'http://127.0.0.1:{port}/'
    finally: stop(p); log.close()

@pytest.fixture(scope='module')
def page(server, request):
    "The page, when all viewers are there."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            page = browser.new_page(viewport=dict(width=1000, height=900)); page.set_default_timeout(20_000); page.goto(server, timeout=120_000, wait_until='commit')
            request.getfixturevalue('data')                                       # while the kernel works
            page.wait_for_function(f'document.querySelectorAll(".cdkd-viewer img").length == {len(VIEWERS)} && [...document.querySelectorAll(".cdkd-viewer img")].every(i => i.naturalWidth > 50)', timeout=120_000)
            yield page
        finally: browser.close()

class Live:
    "One viewer of the page."
    def __init__(self, page, n): self.page, self.at = page, page.locator('.cdkd-viewer').nth(n)
    @property
    def words(self): return self.at.locator('.cdkd-words').inner_text()
    def picture(self):
        "What its picture shows, uint8 [H,W,3]."
        from PIL import Image
        url = self.at.locator('img').evaluate('async i => { const b = await (await fetch(i.src)).blob(), f = new FileReader(); return new Promise(r => { f.onload = () => r(f.result); f.readAsDataURL(b) }) }')
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))).convert('RGB'))
    def until(self, text):
        "Wait until the words hold `text`; they are set before the picture, so wait for that too."
        self.at.locator('.cdkd-words', has_text=text).wait_for(timeout=20_000); self.page.wait_for_timeout(150)
    def shows(self, picture, *wrong):
        "Whether the picture becomes `picture`. The `wrong` ones must be far from it, or this could not fail; and it must not be one of them."
        want = sent(picture); gaps = [gap(sent(w), want) for w in wrong]; assert wrong and min(gaps) > 4*OFF, f'wrong pictures would pass for the right one: they differ by {gaps}'
        for _ in range(60):
            x = self.picture()
            if gap(x, want) < OFF: return all(gap(x, sent(w)) > 3*OFF for w in wrong)
            self.page.wait_for_timeout(100)
        return False
    def drag(self, label, share):
        "Drag the slider `label` to a share of its length; where it says it is."
        slider = self.at.locator('.widget-slider', has_text=label); slider.scroll_into_view_if_needed()
        box, track, mouse = slider.locator('.noUi-handle').bounding_box(), slider.locator('.noUi-target').bounding_box(), self.page.mouse
        y = box['y'] + box['height']/2; mouse.move(box['x'] + box['width']/2, y); mouse.down(); mouse.move(track['x'] + track['width']*share, y, steps=12); mouse.up()
        return float(slider.locator('.widget-readout').inner_text())
    def photo(self, name):
        if folder := os.environ.get('CDKD_SCREENSHOTS'): Path(folder).mkdir(parents=True, exist_ok=True); self.at.screenshot(path=f'{folder}/{name}.png')

def test_nothing_twice(page):
    "Where the widgets live, the still pictures beside them are hidden, and no cell ended in an error."
    stills = page.locator('.jp-OutputArea-child > .jp-RenderedImage'); assert stills.count() == len(VIEWERS)
    assert not any(stills.nth(i).is_visible() for i in range(len(VIEWERS)))
    assert 'Traceback' not in page.content() and 'Error displaying widget' not in page.content()

def test_threshold(page, data):
    "The threshold is dragged: the scores become those of that threshold, and so does the overlay."
    from cdkd.widgets import ThresholdView
    v = Live(page, 1); view = ThresholdView(data['scored']); v.photo('threshold_before'); before = view.show(**view.start).picture
    assert v.shows(before, view.show(0, .3, 'blur_9').picture, view.show(0, .5, 'blur_1').picture)
    t = v.drag('threshold', .2); assert .1 < t < .3; v.until(f'threshold {t:.2f}')
    want = view.table(0, t, 'blur_9'); shown = v.at.locator('table').inner_text()
    for x in want.to_numpy().ravel(): assert f'{x:.3f}' in shown, (want, shown)
    assert want.iloc[1].f1 != view.table(0, .5).iloc[1].f1 and v.shows(view.show(0, t, 'blur_9').picture, before, view.show(0, t+.1, 'blur_9').picture, view.show(0, t, 'blur_1').picture)
    v.photo('threshold_after')

def test_swipe(page, data):
    "The line is dragged: what was date B becomes date A. Then another overlay, and the next pair."
    from cdkd.widgets import PairsView, PairSource, predictors
    v = Live(page, 0); source = PairSource(data['dls'], 'valid'); view = PairsView(source, predictors(data['teacher'], source)['blur_9']); v.photo('swipe_before')
    picture = lambda *setting: view.show(*setting).picture
    at = v.drag('swipe', .8); assert .7 < at < .9 and v.shows(picture(0, at, 'errors'), picture(0, .5, 'errors'), picture(0, at, 'mask')); v.photo('swipe_after')
    far = v.drag('swipe', .1); assert v.shows(picture(0, far, 'errors'), picture(0, at, 'errors'))
    v.at.locator('select').select_option('mask'); assert v.shows(picture(0, far, 'mask'), picture(0, far, 'errors'), picture(0, far, 'prediction'))
    v.at.get_by_role('button', name='▶').click(); v.until('2 of 9'); assert v.shows(picture(1, far, 'mask'), picture(0, far, 'mask'), picture(1, far, 'errors')); v.photo('swipe_mask')

def test_car(page, data):
    "A bar is clicked: its pairs appear, and nothing else is marked; then a bin is chosen."
    from cdkd.widgets import CARView, PairSource
    v = Live(page, 2); view = CARView(PairSource(data['dls']), n=2); v.photo('car_before'); bars = v.at.locator('button[title^="CAR "]:not([disabled])')
    assert bars.count() == len(set(view.bar)); k = sorted(set(view.bar))[-1]; bars.last.click(); v.until(f'bar: CAR {view.controls[0].options[k][1]}')
    assert v.shows(view.show(bar=k).picture, view.show().picture) and bars.evaluate_all('b => b.filter(x => getComputedStyle(x).backgroundColor == "rgb(0, 114, 178)").length') == 1; v.photo('car_bar')
    v.at.locator('select').select_option(index=2); v.until('bin: medium'); assert v.shows(view.show(bin='medium').picture, view.show(bar=k).picture, view.show(bin='large').picture); v.photo('car_bin')

def test_errors(page, data):
    "The next page of the error browser shows the next pairs of the order; another order starts at its first page."
    from cdkd.widgets import ErrorsView
    v = Live(page, 3); view = ErrorsView(data['scored'], n=2); v.photo('errors_1'); assert v.shows(view.show().picture, view.show(page=1).picture, view.show(model='blur_1').picture)
    v.at.get_by_role('button', name='▶').click(); v.until('Pairs 3 to 4 of 9'); assert v.shows(view.show(page=1).picture, view.show().picture); v.photo('errors_2')
    v.at.locator('select').nth(1).select_option('missed change'); v.until('worst by missed change'); assert 'Pairs 1 to 2' in v.words and v.shows(view.show('missed change').picture, *(view.show(by, page=p).picture for by, p in (('wrong pixels', 0), ('wrong pixels', 1), ('missed change', 1), ('false alarms', 0), ('F1', 0))))

def test_disagreement(page, data):
    "Another order shows other pairs first."
    from cdkd.widgets import DisagreementView
    v = Live(page, 4); view = DisagreementView(data['scored'], n=2); v.photo('disagreement'); assert v.shows(view.show().picture, view.show(page=1).picture)
    v.at.locator('select').select_option('blur_9 is better'); v.until('where blur_9 is better'); assert v.shows(view.show('blur_9 is better').picture, view.show().picture, view.show('blur_1 is better').picture)

def test_file_deleted_meanwhile(page, data):
    "A file that is gone is named in the page, and the viewer goes on working."
    v, pairs = Live(page, 0), data['dls'].pairs; gone = Path(pairs['b'].iloc[-1]); kept = gone.read_bytes(); gone.unlink()
    try:
        box = v.at.locator('input[type=number]'); box.fill('9'); box.press('Enter'); v.until('no such file'); assert str(gone) in v.words; v.photo('file_gone')
        v.at.get_by_role('button', name='◀').click(); v.until('8 of 9')
    finally: gone.write_bytes(kept)

def test_exported(data):
    "An exported page without widget state shows the still pictures."
    nbformat = pytest.importorskip('nbformat'); exporter = pytest.importorskip('nbconvert', reason="no nbconvert: pip install -e '.[dev]'").HTMLExporter()
    from cdkd.widgets import VIEW_MIME, view_errors
    b = view_errors(data['scored'])._repr_mimebundle_(); assert {VIEW_MIME, 'image/png'} <= set(b) and len(b['image/png']) < 120_000
    parts = [{k: b[k] for k in (VIEW_MIME, 'text/plain')}, {k: b[k] for k in ('image/png', 'text/plain')}]
    cell = nbformat.v4.new_code_cell('view_errors(scored)', outputs=[nbformat.v4.new_output('display_data', data=p) for p in parts])
    html = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))[0]
    assert b['image/png'][:60] in html

def test_one_output_in_colab(data, monkeypatch):
    "Elsewhere the widget and the still picture are two outputs; Colab keeps the widget itself and gets one."
    import IPython.display, types
    from cdkd.widgets import VIEW_MIME, view_car
    got = []; monkeypatch.setattr(IPython.display, 'display', lambda data, raw: got.append(set(data)))
    v = view_car(data['dls']); v._ipython_display_(); assert got == [{VIEW_MIME, 'text/plain'}, {'image/png', 'text/plain'}]
    got.clear(); monkeypatch.setitem(sys.modules, 'google.colab', types.ModuleType('google.colab')); v._ipython_display_(); assert got == [{VIEW_MIME, 'image/png', 'text/plain'}]
