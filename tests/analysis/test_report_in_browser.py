"""The report in Debian's Chromium, opened from disk, at two widths and in two colour schemes."""

import shutil
from pathlib import Path

import pytest
from synthetic import LAYERS, synthetic_run
from test_report import NASTY

from eom.analysis.report import report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return report(synthetic_run(tmp_path_factory.mktemp("runs") / "run", [*LAYERS, *NASTY]))


@pytest.fixture
def opened(browser, page):
    """Opens the page at a width, in a colour scheme."""

    def at(width: int = 1600, scheme: str = "light"):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(page.as_uri())
        assert browser.execute_script("return innerWidth") == width
        return browser

    return at


def test_no_error_and_no_request(opened, page):
    driver = opened()
    driver.get_log("performance")  # empty it
    driver.get(page.as_uri())
    assert driver.get_log("browser") == []
    asked = [entry for entry in driver.get_log("performance") if "Network.requestWillBeSent" in entry["message"]]
    assert [e for e in asked if page.as_uri() not in e["message"] and '"url":"data:' not in e["message"]] == []
    names = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in names if not name.startswith("data:")] == []
    assert driver.title.endswith("equation of motion")  # no name of a layer was run as a script


def test_the_policy_would_refuse_a_request(opened):
    driver = opened()
    refused = driver.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('sent'), e => 0);"
        "document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
    )
    assert refused == "connect-src"
    driver.get_log("browser")


@pytest.mark.parametrize("width", [400, 1600])
def test_every_figure_is_drawn(opened, width):
    figures = opened(width).execute_script(
        "return [...document.querySelectorAll('svg')].map(s => { const b = s.getBoundingClientRect();"
        "return [b.width, b.height, s.querySelectorAll('path').length, s.querySelectorAll('image').length]; })"
    )
    assert len(figures) == 6
    for across, down, paths, _ in figures:
        assert across > 300
        assert down > 100
        assert paths > 5
    assert [images > 0 for *_, images in figures] == [False, False, False, False, True, False]  # the heat map


def test_no_id_is_used_twice(opened):
    ids = opened().execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) > 50


# The size on the screen of every piece of text, a figure's scale included.
SMALLEST = """
const sizes = [];
for (const e of document.querySelectorAll('body *')) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
  const scale = e instanceof SVGGraphicsElement ? Math.abs(e.ownerSVGElement.getScreenCTM().a) : 1;
  sizes.push([parseFloat(getComputedStyle(e).fontSize) * scale, e.textContent.slice(0, 40)]);
}
sizes.sort((a, b) => a[0] - b[0]);
return sizes;
"""


@pytest.mark.parametrize("width", [400, 1600])
def test_text_has_at_least_ten_pixels(opened, width):
    sizes = opened(width).execute_script(SMALLEST)
    assert len(sizes) > 300
    assert sizes[0][0] >= 10, sizes[:5]


@pytest.mark.parametrize("width", [400, 1600])
def test_only_figures_and_tables_scroll_sideways(opened, width):
    assert opened(width).execute_script("return document.documentElement.scrollWidth") <= width


# Contrast ratios (WCAG 2) of text and of lines in figures against the page's ground.
CONTRASTS = """
const parse = c => c.match(/[\\d.]+/g).map(Number);
const light = c => c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = e => { for (; e; e = e.parentElement) {
  const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } };
const ratio = (a, b) => {
  const [x, y] = [light(a), light(b)];
  return (Math.max(x, y) + .05) / (Math.min(x, y) + .05);
};
const text = [], lines = [];
for (const e of document.querySelectorAll('body *')) {
  if (!e.getClientRects().length) continue;
  const style = getComputedStyle(e), svg = e instanceof SVGGraphicsElement;
  if ([...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    text.push([ratio(parse(svg ? style.fill : style.color), ground(e)), e.textContent.slice(0, 40)]);
  if (svg && e.tagName === 'path' && style.stroke !== 'none' && parseFloat(style.strokeOpacity) > 0)
    lines.push([ratio(parse(style.stroke), ground(e)), style.stroke]);
}
for (const list of [text, lines]) list.sort((a, b) => a[0] - b[0]);
return [text, lines];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_are_legible_in_light_and_dark(opened, scheme):
    driver = opened(scheme=scheme)
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 25, 31)"}[scheme]
    text, lines = driver.execute_script(CONTRASTS)
    assert text[0][0] >= 4.5, text[:5]
    assert len(lines) > 50
    assert lines[0][0] >= 3, lines[:5]


def column(driver, place: int) -> list[str]:
    return driver.execute_script(
        f"return [...document.querySelector('table.sortable').tBodies[0].rows].map(r => r.cells[{place}].dataset.key)"
    )


def test_tables_sort_on_click_and_say_so(opened):
    driver = opened()
    buttons = driver.find_elements("css selector", "table.sortable:first-of-type thead button")[:3]
    before = column(driver, 2)
    for direction in ("ascending", "descending"):
        buttons[2].click()
        values = list(map(float, column(driver, 2)))
        assert values == sorted(map(float, before), reverse=direction == "descending")
        assert buttons[2].find_element("xpath", "..").get_attribute("aria-sort") == direction
    buttons[0].click()
    names = column(driver, 0)
    assert names.index("block.0.weight") < names.index("block.1.weight") < names.index("head.weight")
    assert buttons[2].find_element("xpath", "..").get_attribute("aria-sort") is None
