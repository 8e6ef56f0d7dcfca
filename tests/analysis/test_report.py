"""The page as text: complete, self-contained, and harmless whatever a layer is called."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from synthetic import LAYERS, rows_at, synthetic_run

from eom.analysis import series
from eom.analysis.conclusion import conclusion
from eom.analysis.reading import Reading
from eom.analysis.report import report
from eom.errors import FolderNotWritableError
from eom.records import Row, RunWriter

NASTY = [
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "two\nlines, a comma and 'quotes'",
    "$\\frac{1}{0}$ {{ 7 * 7 }} {% raw %}",
    "--><!-- & &amp; </style></title>",
    "\x00\x1b[31m nul",
]


class Page(HTMLParser):
    """Tags, ids, table cells and visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.ids, self.cells, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.cells += [""] if tag == "td" else []

    def handle_data(self, data):
        self.text += data
        if self.cells:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = synthetic_run(tmp_path_factory.mktemp("runs") / "run", NASTY)
    return report(run).read_text("utf-8")


def test_the_page_has_every_part(page):
    found = Page(page)
    for heading in ("Summary", "Figures", "Errors by layer", "Self-test", "Events", "Settings"):
        assert heading in found.text
    assert found.tags.count("svg") == 6
    assert found.tags.count("figcaption") == 6
    assert "symmetry of H" in found.text
    assert "skipped by the gradient scaler" in found.text
    assert "double-backward" in found.text


def test_every_sentence_of_the_conclusion_stands_on_the_page(tmp_path):
    run = synthetic_run(tmp_path / "run")
    text = Page(report(run).read_text("utf-8")).text
    for sentence in conclusion(run):
        assert sentence in text


def test_nasty_names_stay_text(page):
    found = Page(page)
    assert found.tags.count("script") == 1
    assert found.tags.count("img") == 0
    assert found.tags.count("title") == 1
    for name in ("<script>document.title = 'owned'</script>", "two\\nlines, a comma and 'quotes'", "{{ 7 * 7 }}"):
        assert name in found.text
        assert any(name in cell for cell in found.cells)
    assert "\x00" not in page
    assert "\x1b" not in page


def test_no_id_is_used_twice_and_every_reference_is_met(page):
    ids = Page(page).ids
    assert len(ids) == len(set(ids)) > 50
    for reference in re.findall(r'(?:url\(#|href="#)([^")]+)', page):
        assert reference in ids


def test_nothing_is_loaded_from_anywhere(page):
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
    assert not re.search(r"@import|<link(?![^>]*data:,)|\bsrc=", re.sub(r"&[^;]+;", "", page.split("<main>")[0]))


@pytest.mark.parametrize("case", ["empty", "one record", "no predictions", "NaN", "infinite", "no bars"])
def test_a_run_that_went_wrong_still_has_a_report(tmp_path, case):
    rows = {
        "empty": [],
        "one record": list(rows_at(0, LAYERS)),
        "no predictions": [row for s in range(0, 50, 10) for row in rows_at(s, LAYERS) if row.source == "measured"],
        "NaN": [row._replace(value=math.nan) for row in rows_at(0, LAYERS)],
        "infinite": [row._replace(value=math.inf, bar=math.inf) for s in (0, 10) for row in rows_at(s, LAYERS)],
        "no bars": [row._replace(bar=None) for s in range(0, 50, 10) for row in rows_at(s, LAYERS)],
    }[case]
    with RunWriter.create(tmp_path / "run", {}) as writer:
        writer.append(rows)
        path = report(tmp_path / "run")  # killed early: no manifest entries, and still being written
    assert "Summary" in path.read_text("utf-8")


def test_own_observables_have_tables(tmp_path):
    rows = [Row(s, 0.1 * s, "all", "charge_rate", source, value, 0.01) for s in range(5)
            for source, value in (("measured", 1.0), ("order-0", 1.1))]  # fmt: skip
    with RunWriter.create(tmp_path / "run", {"units": {"charge_rate": "coulomb"}}) as writer:
        writer.append(rows)
    page = Page(report(tmp_path / "run").read_text("utf-8"))
    assert "d(charge)/dt" in page.text
    assert "coulomb" in page.text


def test_the_report_goes_where_it_is_asked_to(tmp_path, monkeypatch):
    monkeypatch.setattr("eom.analysis.report.render", lambda readings: "a page")
    run = synthetic_run(tmp_path / "run", steps=50)
    assert report(run.path) == tmp_path / "run" / "report.html"
    assert report(run, tmp_path) == tmp_path / "report.html"
    assert report(run, tmp_path / "mine.htm") == tmp_path / "mine.htm"
    with pytest.raises(FolderNotWritableError, match="choose another place"):
        report(run, tmp_path / "no" / "such" / "folder.html")


def test_a_long_line_is_thinned_to_its_extremes():
    values = np.random.default_rng(0).standard_normal(100_000)
    values[[777, 55_555]] = 50, -50
    values[1234] = np.nan
    frame = pd.DataFrame({"line": "a", "step": np.arange(100_000), "value": values})
    thinned = series.thin(frame, ["line"])
    assert len(thinned) <= 400
    assert thinned.step.is_monotonic_increasing
    assert (thinned.value.max(), thinned.value.min()) == (50, -50)
    assert series.thin(frame.head(400), ["line"]).equals(frame.head(400))


def test_the_heat_map_is_the_relative_error_of_order_1(tmp_path):
    cells, name = series.heat(Reading.of(synthetic_run(tmp_path / "run", steps=300)))
    assert name == "order 1"
    assert cells.shape == (5, 30)
    assert ((cells > math.log10(0.49e-4)) & (cells <= math.log10(1.01e-4))).all(axis=None)
