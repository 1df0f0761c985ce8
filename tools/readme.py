"""README.md from nbs/index.ipynb, without Quarto: `python tools/readme.py` writes it, `--check` compares.

* Markdown cells as they are; Quarto callouts become GitHub's alerts; links are made relative to the root of the repository
  (`../figures/x.png` -> `figures/x.png`, `tutorials/01.ipynb` -> `nbs/tutorials/01.ipynb`).
* Code cells as ```python blocks with their text outputs; cells that begin with `#| hide` are left out, `#| echo: false` shows the output only.
* A picture in an output is an error: write it to figures/ and show it with markdown, so that it is stored once.
"""
import argparse, json, posixpath, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALERTS = dict(note='NOTE', tip='TIP', warning='WARNING', caution='CAUTION', important='IMPORTANT')
HEAD = '<!-- Written by tools/readme.py from nbs/index.ipynb. Do not edit. -->\n\n'

def text(x): return ''.join(x)

def callouts(md):
    "Quarto's `::: {.callout-note title=\"..\"}` blocks as GitHub alerts; any other `:::` fence is dropped."
    out, inside = [], False
    for l in md.splitlines():
        if m := re.match(r'\s*:::+\s*\{\.callout-(\w+)(.*)\}', l):
            inside = True; out.append(f"> [!{ALERTS.get(m.group(1), 'NOTE')}]")
            if t := re.search(r'title="([^"]*)"', m.group(2)): out += [f'> **{t.group(1)}**', '>']
        elif re.match(r'\s*:::', l): inside = False
        else: out.append(f'> {l}'.rstrip() if inside else l)
    return '\n'.join(out)

def relink(md, base='nbs'):
    "Relative links and pictures, written for a file in `base`, as they must be in the root."
    def new(url):
        if re.match(r'[a-z]+:|#|/|data:', url): return url
        return posixpath.normpath(posixpath.join(base, url))
    md = re.sub(r'(\]\()([^)\s]+)', lambda m: m.group(1) + new(m.group(2)), md)
    return re.sub(r'((?:src|href)=")([^"]+)', lambda m: m.group(1) + new(m.group(2)), md)

def outside_code(md, f):
    "Apply `f` to the parts of `md` that are not fenced code."
    return ''.join(p if p.startswith('```') else f(p) for p in re.split(r'(^```.*?^```[^\n]*$)', md, flags=re.M | re.S))

def output(o):
    "One output as markdown: markdown as such, everything else indented."
    data = o.get('data', {})
    if 'text/markdown' in data: return text(data['text/markdown']).strip()
    if any(k.startswith('image/') for k in data): raise SystemExit('nbs/index.ipynb: a picture in an output; write it to figures/ and show it with markdown')
    t = re.sub(r'\x1b\[[0-9;]*m', '', text(o.get('text', data.get('text/plain', '')))).rstrip()
    return '\n'.join('    ' + l if l else '' for l in t.splitlines())

def code(c):
    "A code cell and its outputs as markdown, or nothing."
    lines = text(c['source']).splitlines()
    opts = [l.split('|', 1)[1].strip().replace(' ', '') for l in lines if re.match(r'#\s?\|', l)]
    if any(o in ('hide', 'include:false') or o.startswith(('default_exp', 'export')) for o in opts): return ''
    src = '\n'.join(l for l in lines if not re.match(r'#\s?\|', l)).strip()
    show = 'hide_input' not in opts and 'echo:false' not in opts
    outs = [] if 'hide_output' in opts or 'output:false' in opts else [output(o) for o in c.get('outputs', [])]
    return '\n\n'.join([f'```python\n{src}\n```'] * (show and bool(src)) + [o for o in outs if o])

def readme(nb):
    "The text of README.md for the notebook `nb` (a dict)."
    parts = []
    for c in nb['cells']:
        if c['cell_type'] == 'markdown': parts.append(outside_code(text(c['source']), lambda s: relink(callouts(s))).strip())
        elif c['cell_type'] == 'code': parts.append(code(c))
    parts = [p for p in parts if p and not re.match(r'---\n', p)]
    return HEAD + '\n\n'.join(parts) + '\n'

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--check', action='store_true', help='fail if README.md is another')
    args = ap.parse_args()
    new, old = readme(json.loads((ROOT/'nbs/index.ipynb').read_text(encoding='utf-8'))), ROOT/'README.md'
    if not args.check: old.write_text(new, encoding='utf-8', newline='\n'); print(f'README.md: {len(new.splitlines())} lines')
    elif not old.exists() or old.read_text(encoding='utf-8') != new: sys.exit('README.md is not that of nbs/index.ipynb; run: python tools/readme.py')
    for l in re.findall(r'(?:\]\(|src=")((?:figures|nbs|data)/[^)"#\s]+)', new):
        if not (ROOT/l).exists(): sys.exit(f'README.md shows {l}, which is not there')
