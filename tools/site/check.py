"""Checks the built site: it reaches for nothing outside, and its search finds what users look for.

    python tools/site/check.py build/site

Prints what is wrong and exits with 1, or says how many pages there are.
"""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

# What users type, and words that the title of a hit must have.
LOOKED_FOR = {
    "clip": "clip",
    "average": "average",
    "resume": "resume",
    "shard": "shard",
    "checkpoint": "checkpoint",
    "memory": "memory",
    "8-bit": "8-bit",
    "FSDP2": "fsdp2",
    "EMA": "ema",
    "sparse": "sparse",
    "migration": "migration",
}
# Tags that make a browser load what their attribute names.
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Loads(HTMLParser):
    """Collects the addresses that a page loads, and its raw TeX."""

    def __init__(self) -> None:
        """Starts without any."""
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes an address outside of the site."""
        address = dict(attrs).get(LOADED.get(tag, "")) or ""
        if re.match(r"(https?:)?//", address):
            self.outside.append(address)


def page_faults(page: Path) -> list[str]:
    """Returns what is wrong with a page."""
    text = page.read_text()
    loads = Loads()
    loads.feed(text)
    found = [f"{page}: loads {address}" for address in loads.outside]
    if 'class="arithmatex"' in text or "\\frac" in text:
        found.append(f"{page}: a formula is not drawn")
    return found


def search_faults(index: Path) -> list[str]:
    """Returns what the search would not find by a title."""
    entries = json.loads(index.read_text())["docs"]
    hits = {
        asked: [
            entry["title"]
            for entry in entries
            if asked.lower() in (entry["title"] + entry["text"]).lower()
            and said in entry["title"].lower()
        ]
        for asked, said in LOOKED_FOR.items()
    }
    return [
        f"{index}: no title of a hit for '{asked}' says it" for asked in hits if not hits[asked]
    ]


def main(site: Path) -> int:
    """Checks all pages; returns the exit code."""
    pages = sorted(site.rglob("*.html"))
    found = [fault for page in pages for fault in page_faults(page)]
    found += search_faults(site / "search" / "search_index.json")
    print("\n".join(found) if found else f"{len(pages)} pages, nothing loaded from outside")
    return 1 if found or not pages else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
