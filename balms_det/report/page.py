"""Data, style, script and plotting library into one HTML file.

Class names come from other people's files. They reach the page as JSON inside a script element that
the browser does not run, with every character escaped that could end it, and the script puts them
into the document as text, never as HTML. A content security policy lets the page run these scripts
alone, by their hashes, and load nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2

ASSETS = Path(__file__).parent / "assets"
# Chart.js 4.6.1 (MIT), `dist/chart.umd.min.js` of the npm package chart.js, unchanged.
LIBRARY = "chart.umd.min.js"
SCRIPTS = ("base.js", "charts.js", "table.js", "gallery.js", "detail.js", "main.js")
STYLE = "report.css"
# What could end a script element, or a line of JavaScript, inside a JSON string.
_ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def render_page(title: str, data: dict[str, Any]) -> str:
    """The page's HTML.

    Args:
        title: plain text.
        data: what the scripts show (see ``payload``); JSON types without NaN.
    """
    scripts = [_asset(LIBRARY), "\n".join(["'use strict';", *map(_asset, SCRIPTS)])]
    style = _asset(STYLE)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        policy=_policy(scripts, style),
        style=style,
        scripts=scripts,
        data=script_json(data),
    )


def script_json(data: Any) -> str:
    """JSON that is safe inside a script element.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(str.maketrans(_ESCAPES))


def _policy(scripts: list[str], style: str) -> str:
    return (
        f"default-src 'none'; img-src data:; script-src {' '.join(map(_source_hash, scripts))}; "
        f"style-src {_source_hash(style)}; base-uri 'none'; form-action 'none'"
    )


def _source_hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
