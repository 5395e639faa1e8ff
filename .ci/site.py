"""What makes the documents a site (a hook of mkdocs.yml): pages from the root, and links that hold here and on GitHub.

A page that lies at the root of the repository (README.md is the site's first) names others as `docs/methods.md`, and
pages in docs/ name those as `../SECURITY.md`. Code and folders are no pages: on the site their names stay, as text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Path in the repository -> page of the site.
ROOT_PAGES = {"README.md": "index.md"} | {name: name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")}
_LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\])\((?P<to>[^)\s]+)\)")
_SOURCE = re.compile(r'src="(?P<to>[^"]+)"')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site's files, with those of the root."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text, with links as they are on the site."""
    uri = page.file.src_uri
    names = {page: name for name, page in ROOT_PAGES.items()}
    here = posixpath.dirname(names.get(uri, f"docs/{uri}"))
    start = posixpath.dirname(uri)

    def target(to: str) -> str | None:
        """The link on the site, None for what is in the repository and no page."""
        if re.match(r"[a-z]+:|#", to):
            return to
        path, mark, anchor = to.partition("#")
        path = posixpath.normpath(posixpath.join(here, path))
        found = ROOT_PAGES.get(path, path.removeprefix("docs/"))
        if found not in files.src_uris:
            # What is nowhere stays as it is, and is warned of.
            return None if (ROOT / path).exists() else to
        return posixpath.relpath(found, start or ".") + mark + anchor

    def link(found: re.Match[str]) -> str:
        text = _LINK.sub(link, found["text"][1:-1])
        to = target(found["to"])
        if found["text"].startswith("!"):
            return f"{found['text']}({to or found['to']})"
        return f"[{text}]({to})" if to else text

    markdown = _LINK.sub(link, markdown)
    return _SOURCE.sub(lambda found: f'src="{target(found["to"]) or found["to"]}"', markdown)
