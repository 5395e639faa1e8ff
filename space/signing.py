"""Signing in with Hugging Face, and out: whoever comes back is at the step that they left, in the same visit."""

from __future__ import annotations

import json

import gradio as gr
from gradio.context import get_blocks_context

from .links.link import KEYS

# As gradio's own script, which gives its query the page's by hand: all but the first part of that is lost on the way.
# An address that names models would open another visit, and a step alone leads back to it.
_LEAVE = f"""(said) => {{
  const kept = new URLSearchParams(location.search);
  for (const key of {list(KEYS[1:])!r}) kept.delete(key);
  const target = encodeURIComponent('/' + (kept.size ? '?' + kept : ''));
  window.parent?.postMessage({{type: 'SET_SCROLLING', enabled: true}}, '*');
  const place = said === SIGN_IN ? 'login/huggingface' : 'logout';
  setTimeout(() => location.assign(`/${{place}}?_target_url=${{target}}`), 500);
}}"""


def sign_in_button() -> gr.LoginButton:
    """Gradio's button, inside the page, which says who is signed in once somebody is."""
    press, page = gr.LoginButton(), get_blocks_context()
    assert page is not None
    (leaving,) = (event for event in page.fns.values() if event.targets == [(press._id, "click")])
    leaving.js = _LEAVE.replace("SIGN_IN", json.dumps(press.value))
    return press
