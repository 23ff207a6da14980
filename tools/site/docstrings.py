"""An extension of griffe: docstrings as Markdown. In the sources they suit `help()` and doctest."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Turns what the docstrings share with reStructuredText into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of a class, function or attribute."""
        if obj.docstring is None:
            return
        if obj.name == "__init__":  # the class says what its arguments are
            obj.docstring = None
            return
        text = obj.docstring.value.replace(".. code-block:: text\n\n", "")
        text = re.sub(r"^( +\w+: )>", r"\1\\>", text, flags=re.MULTILINE)  # else a quotation
        text = re.sub(r"^(Differs from .* in):$", r"Note: \1", text, flags=re.MULTILINE)
        obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
