"""The script by which the address of the page says what the visit has, and back and forward lead to its steps.

The navigation carries the query that the address is to have. A step is an entry of the browser's history, which knows
the visit by its key: a reload of it, and coming back to it from elsewhere, find the same visit.
"""

from __future__ import annotations

from ..link import KEYS

# What the browser's back and forward do, and the button of a message that leads to a step.
BACK, GO_ON = "back", "go-on"

ADDRESS = f"""
const keys = {list(KEYS)!r};
const stepOf = (query) => new URLSearchParams(query).get('step') || 'pick';
watch('value', () => {{
  const told = element.querySelector('[data-query]');
  if (!told) return;
  const now = new URLSearchParams(location.search);
  keys.forEach((key) => now.delete(key));
  for (const [key, value] of new URLSearchParams(told.dataset.query)) now.append(key, value);
  const query = now.toString(), url = location.pathname + (query ? '?' + query : '') + location.hash;
  if (url === location.pathname + location.search + location.hash) return;
  const moved = stepOf(told.dataset.query) !== stepOf(location.search);
  history[moved ? 'pushState' : 'replaceState'](history.state, '', url);
  // A Space is shown in a frame: https://huggingface.co/docs/hub/spaces-handle-url-parameters
  if (parent !== window) parent.postMessage({{queryString: query}}, 'https://huggingface.co');
}});
addEventListener('popstate', () => {{
  last = null;
  trigger('click', {{act: {BACK!r}, id: location.search, value: ''}});
}});
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
