r"""A hook of mkdocs: TeX becomes MathML, which browsers draw without a script.

`$...$` stands in a line and `$$...$$` on lines of its own, as code hosts read it. The number of a
formula is its `\tag{1}`, and `#eq-1` links to it.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
TAG = re.compile(r"\\tag\{(\d+)\}")


def on_page_content(content: str, **_: Any) -> str:
    """Returns the page's HTML with its formulas drawn."""
    content = INLINE.sub(lambda found: convert(html.unescape(found[1])), content)
    return BLOCK.sub(_display, content)


def _display(found: re.Match[str]) -> str:
    tex = html.unescape(found[1])
    tag = TAG.search(tex)
    drawn = convert(TAG.sub("", tex), display="block")
    if tag is None:
        return f'<div class="formula">{drawn}</div>'
    return f'<div class="formula" id="eq-{tag[1]}">{drawn}<span>({tag[1]})</span></div>'
