"""What gradio keeps of each page and each program that came: half a megabyte, of up to 10,000 of them, for ever.

A page finds its visit by it, so it is kept for as long as a visit that nobody touches.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from gradio.state_holder import StateHolder


def forget_idle(holder: StateHolder, idle: float) -> int:
    """Forgets the sessions that nobody used for `idle` seconds, and says how many they were."""
    since = datetime.now() - timedelta(seconds=idle)
    with holder.lock:
        over = [session for session, used in holder.time_last_used.items() if used < since]
        for session in over:
            holder.session_data.pop(session, None)
            del holder.time_last_used[session]
    return len(over)
