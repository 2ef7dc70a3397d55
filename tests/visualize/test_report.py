"""The page for a folder of cases: its content, sorting in a real browser, and no request to elsewhere."""

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.visualize.report import write_report

from ..viewer.browser import visit

ODD = "ä <b> 'c' & \"d\" 100%"


class Page(HTMLParser):
    """The parts of a page that the tests need."""

    def __init__(self, text):
        super().__init__()
        self.links, self.pictures, self.rows, self.heads, self.scripts = [], [], [], [], []
        self._inside = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._inside.append(tag)
        if tag == "a":
            self.links.append(attributes["href"])
        elif tag == "img":
            self.pictures.append(attributes["src"])
            self._inside.pop()
        elif tag == "script":
            self.scripts.append(attributes)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append({"text": "", "value": attributes.get("data-value")})

    def handle_endtag(self, tag):
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data):
        if {"td", "th"} & set(self._inside):
            self.rows[-1][-1]["text"] += data


def report(ml, dice=None, entropy=0.25, unlike=(), **more):
    result = {
        "volume_ml": {"lung": {"segmentation": ml, "members_min": ml - 1, "members_max": ml + 1, **more}},
        "mean_entropy_inside_nats": entropy,
        "unlike_usual": list(unlike),
    }
    if dice:
        result["predicted_dice"] = {"value": dice, "interval_90": [dice - 0.1, dice + 0.05]}
    return {
        "result": result,
        "notes": [],
        "seconds": {"chain": 10.0 * ml, "segment": 1.5},
        "settings": {"members": 8, "seed": 0},
        "inference": {"members": 8, "seed": 0, "time_steps": [999, 500, 0]},
        "versions": {"monai_pdddpm": "0.1.0"},
    }


def write(folder, case, content):
    (folder / case).mkdir(parents=True)
    (folder / case / f"{case}_report.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / case / f"{case}_seg.nii.gz").write_bytes(b"")
    matplotlib.image.imsave(folder / case / f"{case}_overview.png", np.zeros((20, 30)))


def fail(folder, case, error):
    (folder / "failures").mkdir(exist_ok=True)
    (folder / "failures" / f"{case}.json").write_text(json.dumps({"case": case, "error": error}))


@pytest.fixture
def cases(tmp_path):
    """Return a folder of four cases: one with an odd name, one outside the usual range, one that failed."""
    folder = tmp_path / "results"
    write(folder, "case_2", report(9.0, dice=0.8, interval_90=[8.5, 9.75]))
    write(folder, "case_10", report(10.5, unlike=["volume of lung <big>"]))
    write(folder, ODD, report(2.0, dice=0.9, entropy=None))
    fail(folder, "gone", "gone.nii.gz: <cut short>")
    return folder


def parsed(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def row(page, case):
    return next(found for found in page.rows if len(found) > 1 and found[1]["text"] == case)


def test_every_case_has_a_row_with_its_numbers(cases):
    page = parsed(cases)

    heads = [cell["text"] for cell in page.rows[0]]
    assert heads[1:] == ["Case", "State", "lung (mL)", "Predicted Dice", "Uncertainty (nats)", "Seconds", "Files"]
    assert [found[1]["text"] for found in page.rows[1:]] == sorted(["case_10", "case_2", "gone", ODD])
    texts = [cell["text"] for cell in row(page, "case_2")]
    assert texts[2:7] == ["finished", "9.0008.500 to 9.750", "0.8000.700 to 0.850", "0.250", "91.5"]
    assert row(page, "case_10")[3]["text"] == "10.5009.500 to 11.500"  # the members' range
    assert row(page, "case_10")[4]["text"] == ""
    assert row(page, ODD)[5]["text"] == ""
    assert [float(row(page, case)[3]["value"]) for case in ("case_2", "case_10", ODD)] == [9.0, 10.5, 2.0]


def test_failures_and_warnings_are_listed_and_counted(cases):
    text = write_report(cases).read_text(encoding="utf-8")
    page = Page(text)

    assert "gone.nii.gz: <cut short>" in row(page, "gone")[2]["text"]
    assert "volume of lung <big>" in row(page, "case_10")[2]["text"]
    plain = re.sub("<[^>]+>", "", text)
    assert "3 cases finished,\n1 failed,\n1 outside the usual range." in plain
    assert "Each case took about 91.5 s, all together 220 s." in plain
    assert "For each case, 8 plausible segmentations were drawn in 3 steps each (random seed 0)." in plain
    assert "Outside the usual range (1)" in plain
    assert "Failed (1)" in plain


def test_different_settings_are_reported(cases):
    content = report(3.0)
    content["settings"]["members"] = content["inference"]["members"] = 2
    write(cases, "other", content)
    assert "The settings differ between cases" in write_report(cases).read_text(encoding="utf-8")


def test_a_failure_of_a_second_run_is_shown_beside_the_earlier_numbers(cases):
    fail(cases, "case_2", "no memory")
    state = row(parsed(cases), "case_2")[2]["text"]
    assert "failed; the numbers are of an earlier run" in state
    assert "no memory" in state


def test_links_stay_within_the_folder(cases):
    page = parsed(cases)

    assert len(page.pictures) == 3
    rows = [link for link in page.links if link.startswith("#case/")]
    assert len(rows) == 5  # three volumes, two uncertainties
    for link in {*page.links, *page.pictures} - set(rows):
        assert not re.match("[a-z]+:|/", link)
        assert (cases / unquote(link)).is_file()
        assert cases in (cases / unquote(link)).resolve().parents


def test_markup_in_names_is_escaped(cases):
    write(cases, "x<script>alert(1)<", report(1.0) | {"notes": ["<img src=http://a onerror=alert(2)>"]})
    text = write_report(cases).read_text(encoding="utf-8")
    page = Page(text)

    assert page.scripts == [{}]
    assert len(page.pictures) == 4
    assert "<b>" not in text
    assert "<img src=http" not in text


def test_page_requests_nothing_from_elsewhere(cases):
    text = write_report(cases).read_text(encoding="utf-8")

    assert not re.search(r"https?://|@import|url\(|<link|<iframe", text)
    assert "default-src 'none'" in text


def test_time_series_shows_the_range_of_its_frames(tmp_path):
    series = report(1.0)
    frames = [report(ml, dice=dice, entropy=ml / 10)["result"] for ml, dice in ((1.0, 0.9), (3.0, 0.7), (2.0, 0.8))]
    series["result"] = {"frames": frames, "unlike_usual": ["frame 1: odd"]}
    write(tmp_path, "cine", series)

    cells = row(parsed(tmp_path), "cine")

    assert cells[3] == {"text": "1.000 to 3.000", "value": "2"}
    assert cells[4] == {"text": "0.700 to 0.900", "value": "0.7"}
    assert cells[5] == {"text": "0.100 to 0.300", "value": "0.3"}
    assert "frame 1: odd" in cells[2]["text"]


def test_page_that_is_up_to_date_is_not_written_again(cases):
    path = write_report(cases)
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert write_report(cases) == path
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    expected = ["case_2", "case_10", ODD, "failures", "index.html", "cases.csv"]
    assert sorted(file.name for file in cases.iterdir()) == sorted(expected)

    write(cases, "new", report(5.0))
    write_report(cases)
    assert b">new<" in path.read_bytes()


@pytest.mark.parametrize(("name", "mark"), [("index.html", "case_2"), ("cases.csv", "\ufeffcase,status,")])
def test_a_file_of_another_program_is_kept(cases, name, mark):
    (cases / name).write_text("mine")
    with pytest.raises(UserError, match=rf"{name}: found a file of another program"):
        write_report(cases)
    assert [path.read_text() for path in cases.iterdir() if path.suffix in (".html", ".csv")] == ["mine"]
    write_report(cases, overwrite=True)
    assert mark in (cases / name).read_text(encoding="utf-8")


def test_viewer_page_is_linked(cases):
    (cases / "case_2" / "case_2_viewer.html").write_text("")
    assert [link for link in parsed(cases).links if "viewer" in link] == 2 * ["case_2/case_2_viewer.html"]


def test_plot_shows_volumes_in_order_with_intervals(cases):
    text = write_report(cases).read_text(encoding="utf-8")
    plots = [ElementTree.fromstring(found) for found in re.findall("<svg.*?</svg>", text, re.DOTALL)]
    assert len(plots) == 2
    ticks = {float(tick.text): float(tick.get("y")) - 4 for tick in plots[0].findall("text")}
    scale = (ticks[0] - ticks[12]) / 12  # pixels per mL
    points = plots[0].findall("a")
    assert [point.get("class") for point in points] == ["finished", "finished", "check"]
    expected = [(ODD, 2, 1, 3), ("case_2", 9, 8.5, 9.75), ("case_10", 10.5, 9.5, 11.5)]
    for point, (case, *values) in zip(points, expected, strict=True):
        assert point.find("title").text == "{}: {:.3f} ({:.3f} to {:.3f})".format(case, *values)
        line, dot = point.find("line"), point.find("circle")
        heights = [float(y) for y in (dot.get("cy"), line.get("y1"), line.get("y2"))]
        np.testing.assert_allclose(heights, [ticks[0] - value * scale for value in values], atol=0.1)


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_broken_report_is_shown_in_its_row(cases, content):
    (cases / "case_2" / "case_2_report.json").write_text(content)
    assert "case_2_report.json cannot be read" in row(parsed(cases), "case_2")[2]["text"]


def test_no_cases_is_an_error(tmp_path):
    with pytest.raises(UserError, match="found no case"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


# clicks on column names and buttons, and collects what the page shows then
CLICKS = """
  const visible = () => [...document.querySelectorAll("tbody tr")].filter(row => !row.hidden);
  const names = () => visible().map(row => row.cells[1].textContent);
  const button = text => [...document.querySelectorAll("th button")].find(each => each.textContent === text);
  const click = text => { button(text).click(); return names(); };
  seen.first = names();
  seen.name = click("Case");
  seen.back = click("Case");
  seen.volume = click("lung (mL)");
  seen.less = click("lung (mL)");
  seen.sorted = [...document.querySelectorAll("th[aria-sort]")].map(head => head.getAttribute("aria-sort"));
  document.querySelector("[data-show=failed]").click();
  seen.failed = names();
  document.querySelector("[data-show=all]").click();
  const search = document.getElementById("search");
  search.value = "LUNG <big";
  search.dispatchEvent(new Event("input"));
  seen.found = names();
  await wait(1000);
  seen.loaded = [...document.images].filter(image => image.complete && image.naturalWidth === 30).length;
"""


@pytest.mark.slow
def test_a_browser_shows_sorts_and_filters_the_page(cases, tmp_path):
    seen = visit(write_report(cases), CLICKS, tmp_path)

    assert seen["first"] == sorted(["case_10", "case_2", "gone", ODD])
    assert seen["name"] == [ODD, "case_2", "case_10", "gone"]  # numbers in names sort by value
    assert seen["back"] == seen["name"][::-1]
    assert seen["volume"] == [ODD, "case_2", "case_10", "gone"]
    assert seen["less"] == ["case_10", "case_2", ODD, "gone"]  # rows without a value stay last
    assert seen["sorted"] == ["descending"]
    assert seen["failed"] == ["gone"]
    assert seen["found"] == ["case_10"]
    assert seen["loaded"] == 3
    assert seen["problems"] == []
