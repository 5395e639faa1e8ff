"""Puts the page together and serves it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from fusehub.errors import FuseHubError
from fusehub.hub.client import be_patient
from fusehub.utils.reach import confine

from . import dock
from .documents import add_documents
from .downloads import add_downloads
from .events import shown, token_of
from .frame import Frame
from .links.link import read_link
from .links.opening import open_recipe
from .links.sharing import Sharing, fill_in
from .loading.front import Front
from .loading.page import Page
from .programs.endpoints import endpoints
from .programs.tools import structured
from .public_models import Recent
from .render.address import RECALL, REMEMBER
from .render.nav import STEPS
from .sessions import forget_idle, forget_uploads
from .setting import Setting
from .step import Step
from .steps.check import Check
from .steps.compare import Compare
from .steps.merge import Merge
from .steps.pick import Pick, describe
from .steps.push import Push
from .steps.statistics import StatisticsStep
from .steps.way import start_way
from .visit import COMPARE, MERGE
from .visits import Visits
from .workers.jobs import Jobs
from .workers.worker import Worker

_HERE = Path(__file__).parent
_HEAD = f'<meta name="description" content="Merge fine-tuned models without their training data">{dock.SCRIPT}'


def serve(setting: Setting, *, host: str | None, port: int | None, open_browser: bool, block: bool) -> str:
    """Serves the app until interrupted (or in the background, unless `block`), and returns its address."""
    from starlette.middleware import Middleware

    from fusehub.localhub.hosts import HostCheck

    be_patient()
    frame = new_frame(setting)
    if setting.shared:
        # Before any process is started that works for strangers.
        confine(frame.visits.root)
    page = build(frame)
    page.queue(default_concurrency_limit=8, max_size=200)

    @asynccontextmanager
    async def lifespan(served: Any) -> AsyncIterator[None]:
        # Before the first request is taken: later, a program that is quick would be answered by gradio alone.
        add_downloads(served, frame)
        add_documents(served)
        structured(page)
        yield

    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            max_file_size=setting.upload,
            state_session_capacity=setting.most_sessions,
            theme=_theme(),
            css_paths=_HERE / "style.css",
            head=_HEAD,
            footer_links=["api"],
            show_error=False,
            # Runs would be kept in the browser with all that was typed, a token too.
            run_history=False,
            mcp_server=_has_mcp(),
            app_kwargs={
                "middleware": [Middleware(HostCheck, names=setting.names(host)), Middleware(Front, page=page)],
                "lifespan": lifespan,
            },
        )
    except OSError as error:
        raise FuseHubError(f"The app cannot be served ({error}).", "Choose another port with --port.") from error
    frame.address = os.environ.get("SPACE_ID") or address.rstrip("/")
    # Only now: the page is there, and what is heavy can come.
    frame.worker.start()
    threading.Thread(target=_sweeping, args=(frame.visits, page, setting), daemon=True).start()
    if block:
        try:
            page.block_thread()
        finally:
            close(frame)
    return address


def close(frame: Frame) -> None:
    """Stops all work and deletes what visits made."""
    frame.jobs.close()
    frame.visits.close()
    frame.worker.close()


def new_frame(setting: Setting) -> Frame:
    jobs = Jobs(setting.running, setting.waiting)
    return Frame(setting, Visits(setting, jobs), jobs, Worker(), Recent(describe))


def build(frame: Frame) -> gr.Blocks:
    """The page, all six steps of it."""
    # What gradio itself keeps of uploads goes after an hour; the app moves them into the visit's folder at once.
    # Files that gradio took in and no visit took over go when a visit would that nobody touches.
    setting = frame.setting
    kept = (max(1, round(setting.idle / 6)), max(1, round(setting.idle)))
    with Page(title="FuseHub", analytics_enabled=False, delete_cache=kept) as page:
        gr.HTML(
            "<header class='fh-top'><h1>FuseHub</h1><p>Merge fine-tuned models into one, without their training data."
            "</p></header>"
        )
        frame.layout()
        sharing = Sharing(frame)
        kinds: tuple[type[Step], ...] = (Pick, Check, StatisticsStep, Merge, Compare, Push)
        for place, (name, kind) in enumerate(zip(STEPS, kinds, strict=True)):
            with gr.Column(visible=place == 0, elem_id=f"step-{name.lower()}", elem_classes="fh-column") as column:
                frame.steps.append(kind(frame))
            frame.columns.append(column)
        frame.elsewhere.render()
        first: Pick = frame.steps[0]
        for step in frame.steps:
            step.wire()
            for press in step.one_goes:
                frame.on(press.click, step, lambda visit, token, data: start_way(frame, visit, token))
        frame.wire()
        sharing.wire(frame.steps[MERGE], frame.steps[COMPARE])

        def fill(request: gr.Request, key: str) -> list[Any]:
            visit = frame.visit_of(request, key)
            return [*sharing.filled(visit), frame.unasked(visit)]

        opened = frame.on(
            first.open_recipe.click, first, lambda visit, token, data, said: open_recipe(frame, visit, token, said),
            [first.recipe], paints=[first.picked], busy="Reading the recipe", concurrency_limit=10,
        )  # fmt: skip
        opened.then(shown(fill), [frame.key], [*sharing.inputs, frame.ended], **frame.hidden)
        recalled = gr.Textbox(visible="hidden", elem_id="visit")
        query = gr.Textbox(visible="hidden", elem_id="query-of-page")

        def enter(oauth: gr.OAuthToken | None, request: gr.Request, key: str, query: str) -> list[Any]:
            # First of all, and without the Hub: what is pressed meanwhile waits for it.
            visit = frame.visits.open(key, request.session_hash)
            link = read_link(query, setting)
            if visit.picks:
                visit.step = link.step
            elif link.says_something:
                visit.opened_by = query
            return [visit.key, visit.key, *frame.paint_all(visit, token_of(oauth))]

        def look(oauth: gr.OAuthToken | None, request: gr.Request, key: str) -> list[Any]:
            visit, token = frame.visit_of(request, key), token_of(oauth)
            fill_in(frame, visit, token)
            filled = [*sharing.filled(visit), frame.unasked(visit)]
            if visit.found is not None:
                return [*[gr.skip()] * (len(frame.outputs) + len(first.outputs)), *filled]
            first.first_search(visit, token)
            return [*frame.paint_step(first, visit, token), *filled]

        def leave(request: gr.Request) -> None:
            if request.session_hash is not None:
                frame.visits.leave(request.session_hash)

        page.load(
            enter, [recalled, query], [frame.key, recalled, *frame.everything], js=RECALL, concurrency_limit=20,
            **frame.hidden,
        ).then(None, [recalled], None, js=REMEMBER, show_progress="hidden").then(
            shown(look), [frame.key], [*frame.outputs, *first.outputs, *sharing.inputs, frame.ended],
            concurrency_limit=20, **frame.hidden,
        )  # fmt: skip
        page.unload(leave)
        endpoints(frame)
    return page


def _sweeping(visits: Visits, page: gr.Blocks, setting: Setting) -> None:
    while True:
        time.sleep(setting.sweep)
        visits.sweep()
        forget_idle(page, setting.idle)
        forget_uploads(page, setting.idle)


def _has_mcp() -> bool:
    from importlib.util import find_spec

    return find_spec("mcp") is not None


def _theme() -> gr.themes.Base:
    """Quiet colours with enough contrast, and the fonts that the machine has: nothing is fetched from elsewhere."""
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    return gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        font=fonts,
        font_mono=mono,
        radius_size="md",
    ).set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        slider_color="*primary_600",
    )
