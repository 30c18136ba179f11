"""One HTML page that loads nothing: a template filled with its style, its script and its data.

Every text that comes from data goes into it through `html.escape` or, as JSON, through `json_in_html`; the page's
content security policy runs no script but its own.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any


def fill(folder: Path, parts: dict[str, str]) -> str:
    """page.html of `folder` with `{{name}}` replaced by parts; style.css and page.js beside it are parts, too, and
    `policy` is the content security policy that lets them alone in."""
    style, script = (folder / "style.css").read_text(), (folder / "page.js").read_text()
    parts = {**parts, "style": style, "script": script, "policy": _content_policy(style, script)}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (folder / "page.html").read_text())


def json_in_html(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _content_policy(style, script):
    def allowed(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; style-src {allowed(style)}; script-src {allowed(script)}; "
        "media-src 'self' file: data:; img-src 'self' file: data:"
    )
