"""The app: pick models, check them, merge, compare side by side, push. It runs as a Space and on a laptop.

    from space import launch
    launch(["user/expert-1", "user/expert-2"])          # a browser opens; the Hub is that of HF_ENDPOINT

`steps` has one file a step (`pick`, `check`, `statistics`, `merge`, `compare`, `push`), `visit` what a visitor has,
`workers` what runs in other processes, `render` what is shown, `frame` what holds the steps together, `links` what
fills a visit in, `programs` the endpoints. All that is done with models is done by the package `fusehub`.
"""

from __future__ import annotations

from collections.abc import Sequence


def launch(
    models: Sequence[str] = (),
    *,
    host: str | None = None,
    port: int | None = None,
    open_browser: bool = False,
    block: bool = True,
) -> str:
    """Serves the app and returns its address; `models` are those that the worked example fills in.

    Blocks until interrupted unless told not to. Without `port`, the first free one from 7860 on.
    """
    # Before anything imports huggingface_hub, which reads the environment once.
    from .setting import Setting

    setting = Setting.of(models, host)
    from .serve import serve

    return serve(setting, host=host, port=port, open_browser=open_browser, block=block)
