"""What a visitor does to a field after something was asked stays when the answer comes that fills that field in.

Gradio writes what an answer says over what is there, and nobody but the browser knows what was typed or ticked in the
moment before. So it remembers the fields that were touched, until something is asked that was told what is in them;
and writes it again, as if it was done again, where an answer to something older has changed it. What the page itself
has asked for, as while work goes on, was told of no field.
"""

SCRIPT = """
window.fusehub.touched = new Map();
{
  const ofField = 'input:not([type=file], [role]), textarea';
  const now = (field) => ['checkbox', 'radio'].includes(field.type) ? field.checked : field.value;
  const called = (field) => (field.closest('label') || field.closest('.block'))?.innerText;
  let again = false;
  const remember = (event) => {
    const field = event.target;
    if (again || !field.matches?.(ofField) || !field.closest('.gradio-container')) return;
    if (field.type === 'radio') {
      document.getElementsByName(field.name).forEach((other) => window.fusehub.touched.delete(other));
    }
    window.fusehub.touched.set(field, {at: Date.now(), is: now(field), called: called(field)});
  };
  addEventListener('input', remember, true);
  addEventListener('change', remember, true);
  const restore = () => {
    for (const [field, own] of window.fusehub.touched) {
      // Of another name by now, it asks for something else.
      if (!field.isConnected || field.disabled || called(field) !== own.called) window.fusehub.touched.delete(field);
      else if (now(field) !== own.is) {
        again = true;
        if (typeof own.is === 'boolean') field.click();
        else {
          field.value = own.is;
          field.dispatchEvent(new Event('input', {bubbles: true}));
        }
        again = false;
      }
    }
  };
  // `since`: when that was asked which has been answered; 0 where nobody has asked for it.
  window.fusehub.keep = (since) => {
    for (const [field, own] of window.fusehub.touched) {
      if (own.at <= since) window.fusehub.touched.delete(field);
    }
    requestAnimationFrame(() => setTimeout(restore, 0));
  };
}
"""
