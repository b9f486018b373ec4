"""The pages in a real browser, Chromium without a window: they draw, zoom, and can be read."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver

from emu.report.page import conformance_page, migration_page, render, sweep_page, tap_page
from tests.emu.report.page.samples import (
    HOSTILE,
    case,
    conformance,
    migrations,
    run,
    sweep_document,
    tap,
)
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.report.page.content import Page

pytestmark = pytest.mark.peer

PROGRAMS = ("chromium", "chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PAGES: dict[str, Page] = {
    "migrate": migration_page.page(migrations(run("qemu-2021", scale=10), run(HOSTILE))),
    "sweep": sweep_page.page(sweep_document()),
    "conform": conformance_page.page(
        conformance(
            case(101, "PASS"),
            case(102, "FAIL", **dict.fromkeys(("rule", "seen", "area", "expected"), HOSTILE)),
            case(103, "FAIL", severity="should"),
            peer={"program": HOSTILE},
        )
    ),
    "tap": tap_page.page(tap(violations=[{"device": HOSTILE, "text": HOSTILE, "count": 1}])),
}
#: Every visible text with less contrast to its ground than WCAG 2.1 demands (1.4.3): 4.5 to 1.
FAINT_TEXT = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const parse = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (rgb) => {
  const [r, g, b] = rgb.map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const style = getComputedStyle(at);
    if (at.matches("td[style]")) return parse(style.getPropertyValue("--bar"));
    const colour = parse(style.backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255, 255];
};
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let texts = 0;
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
  if (!text || !element.checkVisibility() || element.closest("script")) continue;
  texts += 1;
  const style = getComputedStyle(element);
  const colour = parse(element.closest("svg") ? style.fill : style.color);
  const pair = [colour, ground(element)].map((rgb) => light(rgb.slice(0, 3)));
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (ratio < 4.5) found.push(`${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return [texts, found];
"""


class Browser:
    """Chromium, driven by its DevTools protocol."""

    def __init__(self, driver: webdriver.Chrome, directory: Path) -> None:
        self._driver = driver
        self._directory = directory

    def open(self, kind: str, *, width: int = 1280, scheme: str = "light") -> None:
        """Open a page, and wait until it has drawn its charts."""
        path = self._directory / f"{kind}.html"
        if not path.exists():
            path.write_text(render.html(PAGES[kind]), "utf-8")
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)
        self.command("Network.enable")
        self._log("performance")  # forget what was before
        self._log("browser")
        self._driver.get(path.as_uri())
        ready = "const done = arguments[0]; report.ready.then(() => done(''), e => done(String(e)))"
        assert self._driver.execute_async_script(ready) == ""

    def command(self, name: str, **arguments: Any) -> Any:
        """Execute a command of the DevTools protocol."""
        return self._driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: object) -> Any:
        """The value that a script returns."""
        return self._driver.execute_script(script, *arguments)

    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def errors(self) -> list[str]:
        """What the console shows as errors: exceptions, and what the page's policy forbids."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] == "SEVERE"]

    def _log(self, name: str) -> list[dict[str, Any]]:
        entries = self._driver.execute("getLog", {"type": name})["value"]
        return list(entries)

    def middle_of(self, selector: str) -> tuple[float, float]:
        """The middle of the first element, which is scrolled to the middle of the window."""
        x, y = self.run(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];",
            selector,
        )
        return float(x), float(y)

    def mouse(self, kind: str, at: tuple[float, float], **more: Any) -> None:
        """Move the mouse, press or release its button, or turn its wheel."""
        self.command("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **more)

    def axis(self, figure: str) -> tuple[float, float]:
        """The bounds of a figure's time axis."""
        script = "return report.views.get(arguments[0]).scale('x').domain()"
        low, high = self.run(script, figure)
        return float(low), float(high)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium; one for all tests."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: make peers-install")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(str(shutil.which("chromedriver")))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_script_timeout(PROGRAM_TIMEOUT)
        driver.set_page_load_timeout(PROGRAM_TIMEOUT)
        yield Browser(driver, tmp_path_factory.mktemp("pages"))
    finally:
        driver.quit()


@pytest.mark.parametrize("kind", PAGES)
def test_it_draws_and_asks_nothing_of_a_network(browser: Browser, kind: str) -> None:
    """Every chart has marks; no address but that of the page itself is asked for."""
    browser.open(kind)
    marks = browser.run(
        "return [...document.querySelectorAll('.chart')]"
        ".map(chart => chart.querySelectorAll('svg .mark-rect path, svg .mark-line path').length)"
    )
    assert len(marks) == len(PAGES[kind].figures)
    assert all(marks)
    assert {address.partition(":")[0] for address in browser.requests()} <= {"file", "data"}
    assert browser.errors() == []
    assert browser.run("return window.hacked === undefined")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("kind", PAGES)
def test_it_can_be_read(browser: Browser, kind: str, width: int, scheme: str) -> None:
    """It is not wider than the window, and its text has enough contrast."""
    browser.open(kind, width=width, scheme=scheme)
    inner, outer = browser.run(
        "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
    )
    assert inner <= outer
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    texts, faint = browser.run(FAINT_TEXT)
    assert texts > 20
    assert faint == []


def test_the_theme_changes_with_the_browser_s(browser: Browser) -> None:
    """Also while the page is shown."""
    browser.open("migrate")
    colour = "return getComputedStyle(document.querySelector('.chart svg text')).fill"
    before = browser.run(colour)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.command("Emulation.setEmulatedMedia", features=features)
    wait_until(lambda: browser.run(colour) != before)


def test_buttons_zoom_and_move_the_axis(browser: Browser) -> None:
    """And set it back."""
    browser.open("migrate")
    low, high = browser.axis("timeline-0")

    def click(name: str) -> tuple[float, float]:
        before = browser.axis("timeline-0")
        browser.run(f"document.querySelector('#figure-timeline-0 [data-act={name}]').click()")
        wait_until(lambda: browser.axis("timeline-0") != before)
        return browser.axis("timeline-0")

    inner = click("in")
    assert inner[1] - inner[0] == pytest.approx((high - low) / 2)
    assert click("right")[0] > inner[0]
    assert click("reset") == pytest.approx((low, high))
    outer = click("out")
    assert outer[1] - outer[0] == pytest.approx((high - low) * 2)


def test_the_mouse_zooms_moves_and_resets(browser: Browser) -> None:
    """The wheel alone scrolls the page; a double click sets the axis back."""
    browser.open("migrate")
    at = browser.middle_of("#figure-timeline-0 svg .background")
    whole = browser.axis("timeline-0")
    browser.mouse("mouseMoved", at)
    browser.mouse("mouseWheel", at, deltaX=0, deltaY=-240, modifiers=2)  # with Ctrl
    wait_until(lambda: browser.axis("timeline-0") != whole)
    zoomed = browser.axis("timeline-0")
    assert zoomed[1] - zoomed[0] < whole[1] - whole[0]
    browser.mouse("mousePressed", at, button="left", clickCount=1)
    browser.mouse("mouseMoved", (at[0] - 60, at[1]), button="left")
    browser.mouse("mouseReleased", (at[0] - 60, at[1]), button="left", clickCount=1)
    wait_until(lambda: browser.axis("timeline-0")[0] > zoomed[0])
    for count in (1, 2):
        browser.mouse("mousePressed", at, button="left", clickCount=count)
        browser.mouse("mouseReleased", at, button="left", clickCount=count)
    wait_until(lambda: browser.axis("timeline-0") == whole)
    scrolled = browser.run("return scrollY")
    browser.mouse("mouseWheel", at, deltaX=0, deltaY=-120)
    wait_until(lambda: browser.run("return scrollY") != scrolled)
    assert browser.axis("timeline-0") == whole


def test_a_bar_shows_its_figures_under_the_pointer(browser: Browser) -> None:
    """Text of a peer is text there, too."""
    browser.open("migrate")
    at = browser.middle_of("#figure-timeline-0 svg [aria-label*='get vring base']")
    browser.mouse("mouseMoved", at)
    shown = "return document.querySelector('#vg-tooltip-element.visible')?.innerText ?? ''"
    wait_until(lambda: "sum of its spans" in browser.run(shown))
    at = browser.middle_of(
        "#figure-downtime svg [aria-roledescription=bar][aria-label*='window.hacked']"
    )
    browser.mouse("mouseMoved", at)
    wait_until(lambda: "<script>window.hacked" in browser.run(shown))
    assert browser.run("return window.hacked === undefined")


def test_filters_choose_cases(browser: Browser) -> None:
    """At first those that failed; then by verdict, severity, area and text."""
    browser.open("conform")

    def shown() -> list[str]:
        return list(
            browser.run(
                "return [...document.querySelectorAll('.case:not([hidden]) .id')]"
                ".map(each => each.innerText)"
            )
        )

    def set_to(selector: str, change: str) -> None:
        browser.run(
            f'const e = document.querySelector("{selector}"); {change};'
            "e.dispatchEvent(new Event('input', {bubbles: true}))"
        )

    assert shown() == ["VU-B-0102", "VU-B-0103"]
    set_to("[value=PASS]", "e.checked = true")
    assert shown() == ["VU-B-0102", "VU-B-0103", "VU-B-0101"]
    set_to("[name=severity]", "e.value = 'must'")
    assert shown() == ["VU-B-0102", "VU-B-0101"]
    set_to("[name=area]", "e.value = 'framing'")
    assert shown() == ["VU-B-0101"]
    set_to("[name=area]", "e.value = ''")
    set_to("[name=text]", "e.value = 'HACKED'")
    assert shown() == ["VU-B-0102"]
    assert browser.run("return document.querySelector('.shown').value") == "1 of 3 cases"
