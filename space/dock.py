"""The bar at the bottom of the window: what goes on and how far it is, then that it is done, or what went wrong.

It is where the eye is however long the page, and what it says belongs to the step and the press that it came from:
with the next press, at another step, or by its button, it goes.

`SCRIPT` is what the page itself does for it: it says what was asked for and not answered yet (`begin`, `end`), and
brings a result into view, with the focus where that would be left out of the window. Whoever has gone on by Tab
meanwhile is not taken elsewhere. Of what goes on without a word it looks after the answer, too.
"""

from __future__ import annotations

import json
import time

from .render import html, touched
from .visit import Ended
from .workers.jobs import WAITING, Job

# Milliseconds after which what takes longer says that it goes on.
_PATIENCE = 400
# Milliseconds after which an answer may be lost.
_LOST = 3000
# In the place of what a press shows: the page from its top.
TOP = "top"
# What the button that takes a message away does.
CLOSE = "close"
# Seconds below which what is left is not worth a number.
_MOMENT = 1.5

SCRIPT = (
    (
        """<script>
window.fusehub = {
  pending: new Map(),
  nudged: 0,
  painted: 0,
  failed: new WeakSet(),
  ended: 0,
  begin(id, words) {
    if (!this.pending.size) this.failures();
    this.pending.set(id, {words, since: this.pending.get(id)?.since || Date.now()});
    this.ticking = this.ticking || setInterval(() => this.draw(), 200);
  },
  end(told) {
    for (const [number, id, shows] of JSON.parse(told)) {
      if (number <= this.ended) continue;
      this.ended = number;
      this.keep(this.pending.get(id)?.since || 0);
      this.pending.delete(id);
      if (shows === 'TOP') scrollTo({top: 0});
      else if (shows && !document.querySelector('.fh-dock .fh-error')) this.show(shows);
    }
    this.draw();
  },
  failures() {
    const found = [...document.querySelectorAll('.toast-body.error')].filter((one) => !this.failed.has(one));
    found.forEach((one) => this.failed.add(one));
    return found.length;
  },
  draw() {
    const bar = document.querySelector('.fh-busy');
    if (!bar) return;
    // What gradio itself could not do, it says in a message of its own, and nothing else is answered.
    if (this.pending.size && this.failures()) this.pending.clear();
    const open = [...this.pending.values()];
    if (open.length && Date.now() - Math.max(open[0].since, this.nudged) > LOST) {
      this.nudged = Date.now();
      this.nudge();
    }
    const late = open.filter((one) => one.words && Date.now() - one.since > PATIENCE);
    bar.hidden = !late.length;
    if (late.length) {
      const one = late[late.length - 1], seconds = Math.floor((Date.now() - one.since) / 1000);
      if (bar.querySelector('p').textContent !== one.words) bar.querySelector('p').textContent = one.words;
      bar.querySelector('small').textContent = seconds > 1 ? ` ${seconds} s` : '';
    }
    if (!this.pending.size) { clearInterval(this.ticking); this.ticking = null; }
  },
  show(selector) {
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches, before = document.activeElement;
    requestAnimationFrame(() => setTimeout(() => {
      const found = document.querySelector(selector), box = found && found.getBoundingClientRect();
      if (!box || !box.height || (box.top >= 0 && box.top < innerHeight / 2)) return;
      const at = document.activeElement;
      if (at !== before && at !== document.body && before !== document.body && before.checkVisibility()) return;
      found.scrollIntoView({behavior: still ? 'auto' : 'smooth', block: 'start'});
      if (at === document.body || at.matches('input, textarea')) return;
      const own = at.getBoundingClientRect();
      if (own.bottom > box.top && own.top < box.top + innerHeight) return;
      const head = found.querySelector('h3') || found;
      head.tabIndex = -1;
      head.focus({preventScroll: true});
    }, 60));
  },
};
</script>"""
    )
    .replace("PATIENCE", str(_PATIENCE))
    .replace("LOST", str(_LOST))
    .replace("TOP", TOP)
    .replace("</script>", html.PRESSING + touched.SCRIPT + "</script>")
)

# What is not answered may wait in a stream that nobody reads: gradio takes the last one for open until it has read its
# end, and opens none for a press before that. Another event, which does nothing, opens one, and all come.
NUDGE = "window.fusehub.nudge = () => trigger('click');"

# A message that is about a result brings it into view, once.
MESSAGE = (
    html.PRESS
    + """
watch('value', () => {
  const said = element.querySelector('[data-shows]');
  if (said) window.fusehub.show(said.dataset.shows);
});
"""
)
# Answers to presses that came close together may be seen as one: each tells the last few, and each is ended once.
ENDED = """
watch('value', () => {
  const told = element.querySelector('[data-ended]');
  if (told) window.fusehub.end(told.dataset.ended);
});
"""
BUSY = (
    '<section class="fh-busy" role="status" aria-label="Being worked on" hidden><p></p><small aria-hidden="true">'
    '</small><div class="fh-progress fh-moving"><span></span></div></section>'
)


def begin(press: str, words: str | None, inputs: int, before: str = "") -> str:
    """The script with which a press begins, by which its inputs go on as they are; without `words` nothing is said of
    it."""
    begins = f"window.fusehub.begin({press!r}, {json.dumps(words)});"
    return f"(...all) => {{ {begins} {before} return all.slice(0, {inputs}); }}"


def end(ended: Ended, press: str, shows: str | None) -> str:
    """The unseen piece by which it ends, after those that have `ended` just before; `shows` selects the result."""
    return f'<i data-ended="{html.esc(json.dumps(ended.and_now(press, shows)))}"></i>'


def message(said: str, shows: str | None = None) -> str:
    """A message of the bar, with a button that takes it away; `shows` selects what it is about."""
    if not said:
        return ""
    about = f' data-shows="{html.esc(shows)}"' if shows else ""
    close = f'<button type="button" class="fh-close" data-act="{CLOSE}" aria-label="Close this message">×</button>'
    return f'<div class="fh-said"{about}>{said}{close}</div>'


def ended(job: Job) -> str:
    """What is said of work that has succeeded."""
    took = f", after {html.seconds(job.ended - job.started)}" if job.ended and job.started else ""
    return html.notice(f"{job.title}: done{took}.", "done")


def cancelled(job: Job) -> str:
    """What is said of work that was cancelled."""
    stays = " What was done before stays." if job.parts else ""
    left = (
        "Nothing half-made is left."
        if job.cleared or not job.is_at_hub
        else "The Hub did not answer when the repo was to be taken back: it may be left there, empty. Push to it "
        "again, or delete it there."
    )
    return html.notice(f"{job.title} was cancelled. {left}{stays}", "warning")


def reading(job: Job) -> str:
    """How far something is that a step has to know first: the page goes on without it where one goes elsewhere."""
    return (
        f'<section class="fh-work fh-reading" aria-label="Being read"><div><p class="fh-work-title" role="status">'
        f"{html.esc(job.step or job.title)}</p>{html.progress(job.share, job.title)}"
        f'<p class="fh-work-details">{html.esc(_details(job))}</p></div></section>'
    )


def running(job: Job, before: int) -> str:
    """Work that waits or goes on: what it does, how far it is, what is left, and how to cancel it."""
    if job.state == WAITING:
        text = f"{job.title}: waiting" + (f" for {html.count(before, 'other')} to finish" if before else " to begin")
        details = ""
    else:
        text = job.step or f"{job.title}: starting"
        details = _details(job)
    return (
        f'<section class="fh-work" aria-label="Work that goes on"><div><p class="fh-work-title">{html.esc(text)}</p>'
        f'{html.progress(job.share, job.title)}<p class="fh-work-details">{html.esc(details)}</p></div>'
        f"{html.button('cancel', 'Cancel', says='Cancel: ' + job.title)}</section>"
    )


def _details(job: Job) -> str:
    said = []
    if job.share is not None:
        said.append(f"{100 * job.share:.0f} %")
    if job.total:
        said.append(f"{html.amount(job.done, job.unit)} of {html.amount(job.total, job.unit)}")
    if (left := job.seconds_left) is not None:
        said.append("nearly done" if left < _MOMENT else f"about {html.seconds(left)} left")
    if job.started is not None and (so_far := time.monotonic() - job.started) >= 1:
        said.append(f"{html.seconds(so_far)} so far")
    return " · ".join(said)
