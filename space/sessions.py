"""What gradio keeps of each page and each program that came: half a megabyte, of up to 10,000 of them, for ever.

A page finds its visit by it, so it is kept for as long as a visit that nobody touches. What was still to be told to a
page that was closed amid work (each message is a whole page) would be kept for the last 2,000 of them. Of each file
that is uploaded, an empty one is left, and of each content an empty folder.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import gradio as gr

# What gr.File and gr.UploadButton make beside each file that they are given, and the folder that it comes in.
_LEFT = re.compile(r"tmp\w{8}|[0-9a-f]{64}")


def forget_idle(page: gr.Blocks, idle: float) -> int:
    """Forgets the sessions that nobody used for `idle` seconds, and says how many they were. Who still waits for an
    answer, however long, is not among them."""
    holder, queue = page.state_holder, page._queue
    since = datetime.now() - timedelta(seconds=idle)
    jobs = [*queue.active_jobs, *(waiting.queue for waiting in queue.event_queue_per_concurrency_id.values())]
    asking = {event.session_hash for events in jobs for event in list(events or ()) if event.alive}
    with holder.lock:
        used_before = [session for session, used in holder.time_last_used.items() if used < since]
        over = [session for session in used_before if session not in asking]
        for session in over:
            holder.session_data.pop(session, None)
            del holder.time_last_used[session]
        known = set(holder.time_last_used)
    for session in set(queue.pending_messages_per_session) - known:
        # One that has just come is not known yet, but asks for something.
        if not queue.pending_event_ids_session.get(session) or session in over:
            queue.pending_messages_per_session.pop(session, None)
            queue.pending_event_ids_session.pop(session, None)
    return len(over)


def forget_uploads(page: gr.Blocks, idle: float) -> None:
    """Removes what gradio leaves of uploads that were taken over, or that it removed itself, when it is as old.

    Other apps of this user may have theirs in the same folder: only what is empty goes.
    """
    for path in Path(page.GRADIO_CACHE).glob("*"):
        with suppress(OSError):  # It is not empty, or gone.
            found = path.lstat()
            if _LEFT.fullmatch(path.name) and time.time() - found.st_mtime > idle:
                if path.is_dir():
                    path.rmdir()
                elif not found.st_size:
                    path.unlink()
