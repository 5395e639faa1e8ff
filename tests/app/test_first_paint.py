"""What a browser asks for before the page is there: told with the page, and answered from memory."""

from __future__ import annotations

import gzip
import re
import urllib.request

from space.loading.chunks import BUILD, chunks_of

_ASSETS = """() => performance.getEntriesByType('resource')
  .map((one) => new URL(one.name).pathname.slice(1)).filter((path) => path.startsWith('assets/'))"""


def _asked(url: str, packed: bool = False) -> tuple[bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"} if packed else {})
    with urllib.request.urlopen(request) as answer:
        return answer.read(), {name.lower(): value for name, value in answer.headers.items()}


def test_all_files_of_the_page_are_told_with_it_and_no_others(app, visitor) -> None:
    """Fails where gradio's build is another one: then `chunks_of` does not find all, and the page is slower."""
    page = visitor()
    page.get_by_role("list", name="Models found").wait_for()
    told = re.findall(
        r'<link rel="(?:modulepreload|preload)"[^>]* href="\./(assets/[^"]+)"', _asked(app.url)[0].decode()
    )
    asked = page.evaluate(_ASSETS)
    assert len(told) > 40 and len(told) == len(set(told))
    assert set(asked) - set(told) == set(), "asked for and not told"
    assert set(told) - set(asked) == set()
    assert len(asked) == len(set(asked)), "nothing is fetched twice"
    styles = page.evaluate("() => performance.getEntriesByType('resource').map((one) => one.name)")
    assert sum("theme.css" in name for name in styles) == 1


def test_the_files_are_those_of_gradio_and_are_kept(app) -> None:
    """Compressed for whoever takes that, and kept by the browser, as their names change with them."""
    for name in chunks_of(["html", "button"])[:8]:
        plain, headers = _asked(app.url + name)
        assert plain == (BUILD / name).read_bytes()
        assert "immutable" in headers["cache-control"] and headers["x-content-type-options"] == "nosniff"
        assert headers["content-type"].startswith("text/css" if name.endswith(".css") else "text/javascript")
        packed, headers = _asked(app.url + name, packed=True)
        assert headers["content-encoding"] == "gzip" and gzip.decompress(packed) == plain
    plain, packed = _asked(app.url)[0], _asked(app.url, packed=True)[0]
    assert gzip.decompress(packed) == plain and len(packed) < len(plain) / 5


def test_another_build_of_gradio_is_served_as_it_serves_itself(tmp_path) -> None:
    """Nothing is told where nothing can be read, and a kind that is not known is left out."""
    assert chunks_of(["html"], tmp_path) == []
    (tmp_path / "index.html").write_text("<script src='./assets/other.js'></script>")
    assert chunks_of(["html"], tmp_path) == []
    assert chunks_of(["nothing-that-is-known", "html"]) == chunks_of(["html"])
