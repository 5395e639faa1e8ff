"""The script by which the address of the page says what the visit has, and back and forward lead to its steps.

A piece that is not seen carries the query that the address is to have. A step is an entry of the browser's history,
which knows the visit by its key: a reload of it, and coming back to it from elsewhere, find the same visit.

Answers of the server overtake each other. The piece also carries the turn in which the page was painted: a page that
is painted by an answer of an earlier turn than one that it had already asks to be painted again.

Whose button is gone with what was painted, as one that led to another step, goes on from the heading of the step.
"""

from __future__ import annotations

from ..links.link import KEYS
from . import html

# What the browser's back and forward do, the button of a message that leads to a step, and a page that is behind.
BACK, GO_ON, AGAIN = "back", "go-on", "again"

ADDRESS = f"""
const keys = {list(KEYS)!r};
const stepOf = (query) => new URLSearchParams(query).get('step') || 'pick';
let newest = 0;
const enter = () => {{
  const at = document.activeElement;
  if (at && at !== document.body && at.checkVisibility()) return;
  const heads = [...document.querySelectorAll('.fh-column h2')];
  heads.find((one) => one.checkVisibility())?.focus({{preventScroll: true}});
}};
let held = null;
addEventListener('focusin', (event) => {{ held = event.target; }});
watch('value', () => {{
  const told = element.querySelector('[data-turn]');
  if (!told) return;
  window.fusehub.painted = Date.now();
  const turn = Number(told.dataset.turn);
  if (turn < newest) {{
    trigger('click', {{act: {AGAIN!r}, id: '', value: ''}});
    return;
  }}
  newest = turn;
  requestAnimationFrame(() => setTimeout(() => {{
    if (held && !held.checkVisibility()) enter();
  }}, 60));
  if (told.dataset.query === undefined) return;
  const now = new URLSearchParams(location.search);
  keys.forEach((key) => now.delete(key));
  for (const [key, value] of new URLSearchParams(told.dataset.query)) now.append(key, value);
  const query = now.toString(), url = location.pathname + (query ? '?' + query : '') + location.hash;
  if (url === location.pathname + location.search + location.hash) return;
  const moved = stepOf(told.dataset.query) !== stepOf(location.search);
  history[moved ? 'pushState' : 'replaceState'](history.state, '', url);
  if (moved) requestAnimationFrame(() => setTimeout(enter, 60));
  // A Space is shown in a frame: https://huggingface.co/docs/hub/spaces-handle-url-parameters
  if (parent !== window) parent.postMessage({{queryString: query}}, 'https://huggingface.co');
}});
addEventListener('popstate', () => {{
  trigger('click', {{act: {BACK!r}, id: location.search, value: ''}});
}});
"""

# Back and forward are no press of the navigation, which gives what was pressed last the focus again.
STILL = """
addEventListener('popstate', () => pressed.forget());
"""

# Which visit a page that has just come shows: the one of its entry in the history; else, unless its address is a link,
# the one that the tab had before. And what its address says.
RECALL = f"""(key, query) => [
  history.state?.fusehub ||
    ({list(KEYS[1:])!r}.some((key) => new URLSearchParams(location.search).has(key)) ? '' :
      sessionStorage.getItem('fusehub') || ''),
  location.search,
]"""
REMEMBER = """(key) => {
  sessionStorage.setItem('fusehub', key);
  history.replaceState({...history.state, fusehub: key}, '');
}"""


def address_html(turn: int, query: str | None) -> str:
    """The piece that is not seen: the page's `turn`, and what the address says of the visit, if it is to change."""
    address = f' data-query="{html.esc(query)}"' if query is not None else ""
    return f'<i data-turn="{turn}"{address}></i>'
