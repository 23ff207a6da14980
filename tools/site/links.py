"""A hook of mkdocs: links of the Markdown files, which lead through the whole repository.

On a code host every link works as it stands. The site has docs/, the pages of `ROOT_PAGES` and
pictures; a link to any other file of the repository becomes its path, as code. A link that leads
to no file is left alone: mkdocs warns of it, and the strict build fails.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the site shows from outside of docs/."""
    pictures = (ROOT / "benchmarks" / "results").glob("*.png")
    outside = {str(path.relative_to(ROOT)): str(path.relative_to(ROOT)) for path in pictures}
    for path, uri in (ROOT_PAGES | outside).items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Returns the page's text with the links of the site."""
    folder, uri = Path(page.file.abs_src_path).parent, page.file.src_uri
    on_site = {Path(file.abs_src_path): file.src_uri for file in files if file.abs_src_path}

    def link(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups(default="")
        path = Path(os.path.normpath(folder / target))
        if path in on_site:
            place = os.path.relpath(on_site[path], os.path.dirname(uri) or ".")
            return f"{mark}[{text}]({place}{anchor})"
        if not path.exists() or not path.is_relative_to(ROOT):
            return found[0]
        shown = str(path.relative_to(ROOT))
        is_named = text.strip("`") in (path.name, shown)
        return f"`{shown}`" if is_named else f"{text} (`{shown}`)"

    pieces, start = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [LINK.sub(link, markdown[start : fence.start()]), fence[0]]
        start = fence.end()
    return "".join([*pieces, LINK.sub(link, markdown[start:])])
