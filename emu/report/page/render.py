"""A page as HTML in one file, and its picture as PNG.

The page loads nothing: its scripts, styles and data are in it, and its Content-Security-Policy
permits these scripts only, by their digests. Charts are drawn by Vega-Lite, whose bundle comes with
vl-convert; that also draws the picture. All text is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from emu.report.page.theme import FONT, config
from vhost_user.xml_text import xml_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from emu.report.page.content import Page

#: Pixels for each pixel of the specification, for screens of high resolution and for print.
_SCALE = 2.0
#: The version of Vega-Lite in which the charts are written.
VEGA_LITE = "6.4"
#: The signature of a file (PNG, section 5.2); chunks IHDR, IDAT and IEND are all that it needs.
_PNG = b"\x89PNG\r\n\x1a\n"
_THEMES = {"light": config(dark=False), "dark": config(dark=True)}


def html(page: Page) -> str:
    """The page, as one file."""
    import vl_convert

    figures = [
        {"name": figure.name, "spec": figure.spec, "zooms": figure.zooms} for figure in page.figures
    ]
    scripts = [_bundle(), _text("page.js")] if figures else [_text("page.js")]
    template = _environment().get_template("page.html")
    text = template.render(
        page=page,
        style=_text("page.css"),
        scripts=scripts,
        digests=[_digest(script) for script in scripts],
        data={"figures": _drawable(figures), "themes": _THEMES},
        versions=f"Vega {vl_convert.get_vega_version()}, Vega-Lite {VEGA_LITE}",
    )
    # A byte of a file name that is not UTF-8 becomes a question mark.
    return text.encode(errors="replace").decode()


def picture(page: Page) -> bytes:
    """The page's picture, as PNG."""
    import vl_convert

    style = {**config(dark=False), "background": "white", "font": "sans-serif"}
    spec = _drawable({**page.picture, "config": style})
    image: bytes = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=_SCALE)
    return _packed(image)


def _packed(png: bytes) -> bytes:
    """The same picture in a quarter of the bytes: vl-convert's encoder compresses but little."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(_PNG)
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        chunks.append((kind, png[at + 8 : at + 8 + length]))
        at += length + 12
    pixels = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    first, last = chunks[0], chunks[-1]
    packed = [first, (b"IDAT", zlib.compress(pixels, 9)), last]
    return _PNG + b"".join(_chunk(kind, data) for kind, data in packed)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", check)


def _drawable(value: Any) -> Any:
    """The value with texts that XML permits: vl-convert aborts the process at any other."""
    if isinstance(value, str):
        return xml_text(value)
    if isinstance(value, dict):
        return {_drawable(name): _drawable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_drawable(item) for item in value]
    return value


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("emu.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["font"] = FONT
    return environment


@cache
def _text(name: str) -> str:
    return files("emu.report.page").joinpath("templates", name).read_text("utf-8")


@cache
def _bundle() -> str:
    """The scripts of Vega; they take a second to be put together."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    return bundle.replace("</script", r"<\/script")


def _digest(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
