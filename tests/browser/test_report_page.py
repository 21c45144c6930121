"""A browser opens the report: nothing fails or is fetched, tables sort, cells can be read, nothing scrolls sideways."""

import shutil

import pytest

from linnaeus.report.run_page import run_page

from ..report.records import answers, record

pytestmark = pytest.mark.slow  # a browser takes seconds to start


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium, and there is none")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, tmp_path):
    """`opened(width)` opens the report, and fails if anything went wrong in the meantime."""
    path = tmp_path / "report.html"
    path.write_text(run_page(record(answers(dark=0.8))), encoding="utf-8")
    said, asked = [], []

    def show(width: int):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield show
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_click_on_a_heading_sorts_and_another_turns_round(opened):
    page = opened(1280)
    table = page.locator("#classes table")
    heading = table.locator("th button", has_text="recall")

    def recalls() -> list[float]:
        cells = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
        return [float(cell.split("%")[0]) for cell in cells]

    heading.click()
    assert recalls() == sorted(recalls(), reverse=True)
    heading.click()
    assert recalls() == sorted(recalls())
    assert heading.locator("xpath=..").get_attribute("aria-sort") == "ascending"


def test_a_cell_of_the_confusion_matrix_can_be_read_and_enlarged(opened):
    page = opened(1280)
    matrix = page.locator(".matrix")
    matrix.locator(".cell").nth(1).hover()
    assert "class 0, taken for class 1" in matrix.locator("output").inner_text()
    before = matrix.locator("svg").bounding_box()["width"]
    matrix.get_by_role("button", name="larger").click()
    assert matrix.locator("svg").bounding_box()["width"] > 1.4 * before


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_does_not_scroll_sideways(opened, width):
    assert opened(width).evaluate("document.documentElement.scrollWidth") == width


def test_at_a_desk_every_table_is_shown_whole(opened):
    wide = "[...document.querySelectorAll('section > .wide')].filter(each => each.scrollWidth > each.clientWidth)"
    assert opened(1280).evaluate(f"{wide}.map(each => each.ariaLabel)") == []


def test_on_a_phone_an_interval_breaks_before_its_ends_and_not_between_them(opened):
    cell = opened(390).locator("#classes tbody td:nth-child(2)").first
    line = cell.evaluate("each => parseFloat(getComputedStyle(each).lineHeight)")
    assert cell.locator(".ends").bounding_box()["height"] == pytest.approx(line, abs=3)
    assert cell.bounding_box()["height"] > 1.8 * line


def test_on_a_phone_a_table_that_goes_on_has_a_shadow(opened):
    table = opened(390).locator("#classes .wide")
    assert table.evaluate("each => each.scrollWidth > each.clientWidth")
    assert table.evaluate("each => getComputedStyle(each).backgroundAttachment").count("local") == 2
