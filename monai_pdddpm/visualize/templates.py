"""Fill the text templates of this package; values are escaped, so markup in a name stays text."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader("monai_pdddpm.visualize", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """Return the text of a template of this folder, such as ``report.html.j2``, with its variables."""
    return _ENVIRONMENT.get_template(template).render(**values)
