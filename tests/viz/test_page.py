"""The page of a recording in a real browser: what it shows is what was recorded."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest

import bnfast
import bnfast.viz
from bnfast.viz.records import QUANTITIES
from viz.runs import NAMES, batch, make_layers, train

playwright = pytest.importorskip("playwright.sync_api")
NAMES_OF_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES_OF_BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium")

MARKS = "/*recording*/ {{title}}"  # of the template, which stay what they are elsewhere
# A name that would end the script, or become a tag.
STRANGE = f"</script><b>third</b> & \u2028 {MARKS}"
TITLE = f"A run <of> tests {MARKS}"
UNKNOWN = "\u2013"  # a dash
EVERY, STEPS = 2, 12


@pytest.fixture(scope="module")
def recorder():
    """Two layers of everything, and one without parameters, whose second input is no number."""
    bare = bnfast.BatchNorm(3, affine=False, track_running_stats=False)
    layers = make_layers()
    with bnfast.viz.Recorder(every=EVERY).watch({**layers, STRANGE: bare}) as recorder:
        train(layers, STEPS)
        for step in range(3):
            bare(batch(step, (8, 3)) * np.float32(np.nan if step == 2 else 1))
    return recorder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # Without a sandbox, which needs rights that containers lack; the page is our own.
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(recorder, tmp_path_factory):
    """The file of the page."""
    path = tmp_path_factory.mktemp("page") / "run.html"
    recorder.save_page(path, title=TITLE)
    return path


@pytest.fixture
def page(browser, path):
    """The opened page. After the test: nothing was asked of the network, and no error came."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert requests == [path.as_uri()]
    assert errors == []


def numbers(page, table):
    """The rows of a table, by the text in their first cell."""
    rows = page.locator(f"#{table} tr").evaluate_all(
        "rows => rows.slice(1).map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return {name: [float(cell.replace(UNKNOWN, "nan")) for cell in cells] for name, *cells in rows}


def assert_shows(page, record):
    """The page shows a record: in words, in both tables, and as bars."""
    assert page.locator("#step").text_content().startswith(f"{record.step} (")
    shown = numbers(page, "numbers")
    for name, values in (("input", record.input), ("output", record.output)):
        expected = [*values.quantiles, values.low, values.high, values.size - values.finite]
        np.testing.assert_allclose(shown[name], expected, rtol=1e-3)
        bars = page.get_by_role("img", name=f"{name.capitalize()} at this step").locator("rect")
        counts = [int(count) for count in bars.evaluate_all("all => all.map(b => b.dataset.count)")]
        assert counts == [count for count in values.counts if values.finite]
    there = [name for name in QUANTITIES if name in record.channels]
    for name in there:
        row = shown[name.replace("_", " ").replace("var", "variance")]
        np.testing.assert_allclose(row, record.channels[name].quantiles, rtol=1e-3)
    picked = numbers(page, "picked")
    assert list(picked) == [str(channel) for channel in record.picked]
    expected = np.transpose([record.channels[name].picked for name in there])
    np.testing.assert_allclose(list(picked.values()), expected, rtol=1e-3)


def test_scrubbing_shows_the_records_one_after_the_other(page, recorder):
    records = recorder["first"]
    assert_shows(page, records[0])
    page.locator("#slider").focus()
    for record in records[1:]:
        page.keyboard.press("ArrowRight")
        assert_shows(page, record)
    page.keyboard.press("Home")
    assert_shows(page, records[0])


def test_another_layer_is_shown_at_the_same_time_of_training(page, recorder):
    page.locator("#slider").fill("3")
    assert_shows(page, recorder["first"][3])
    pictures = page.locator("svg").evaluate_all("all => all.map(svg => svg.innerHTML)")
    page.get_by_label("Layer").select_option("second")
    assert_shows(page, recorder["second"][3])
    others = page.locator("svg").evaluate_all("all => all.map(svg => svg.innerHTML)")
    changed = [one != other for one, other in zip(pictures, others, strict=True)]
    assert changed == [True] * 6 + [False] * 2  # gamma and beta of both layers move alike


def test_one_channel_is_a_line_through_its_numbers(page, recorder):
    page.get_by_label("Channels").select_option("3")
    picture = page.get_by_role("img", name="Mean")
    drawn = picture.locator("polyline.batch").get_attribute("points").split()
    heights = np.array([float(point.split(",")[1]) for point in drawn])
    place = recorder["first"][0].picked.index(3)
    means = np.array([r.channels["batch_mean"].picked[place] for r in recorder["first"]])
    assert np.corrcoef(heights, means)[0, 1] < -0.9999  # pixels are counted from above
    # What was a band is as flat as the line.
    edges = picture.locator("polygon.batch.outer").get_attribute("points").split()
    assert sorted(edges) == sorted(2 * drawn)


def test_another_layer_keeps_the_channel_if_it_has_it(page):
    channel = page.get_by_label("Channels")
    channel.select_option("3")
    page.get_by_label("Layer").select_option("second")
    assert channel.input_value() == "3"
    picture = page.get_by_role("img", name="Mean")
    line = picture.locator("polyline.batch").get_attribute("points").split()
    edges = picture.locator("polygon.batch.outer").get_attribute("points").split()
    assert sorted(edges) == sorted(2 * line)
    page.get_by_label("Layer").select_option(index=2)  # has channels 0 to 2
    assert channel.input_value() == "all"


def test_the_keyboard_is_enough(page, recorder):
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # the layer
    for _ in ("channels", "play", "step"):
        page.keyboard.press("Tab")
    page.keyboard.press("End")  # the step
    assert_shows(page, recorder["second"][-1])


def test_play_goes_to_the_end(page, recorder):
    page.get_by_role("button", name="Play").click()
    assert page.locator("#play").text_content() == "Pause"
    playwright.expect(page.locator("#play")).to_have_text("Play")
    assert_shows(page, recorder["first"][-1])
    page.get_by_role("button", name="Play").click()  # once more, from the start
    page.get_by_role("button", name="Pause").click()
    assert int(page.locator("#slider").input_value()) < len(recorder["first"]) - 1


def test_a_click_goes_to_the_nearest_record(page, recorder):
    picture = page.get_by_role("img", name="Variance")
    box = picture.bounding_box()
    picture.click(position={"x": 0.99 * box["width"], "y": 0.5 * box["height"]})
    assert_shows(page, recorder["first"][-1])


def test_a_layer_without_parameters_and_input_that_is_no_number(page, recorder):
    recorded = recorder[STRANGE]
    options = page.locator("#layer option").evaluate_all("all => all.map(o => o.textContent)")
    assert options == [*NAMES, STRANGE] and page.title() == TITLE
    page.get_by_label("Layer").select_option(index=2)
    assert_shows(page, recorded[0])
    page.locator("#slider").fill("1")
    assert recorded[1].input.finite == 0
    assert_shows(page, recorded[1])
    assert "NaN" not in page.locator("main").inner_html()


def test_the_browser_would_fetch_nothing(browser, path):
    page = browser.new_page()
    page.goto(path.as_uri())
    fetched = "fetch('data:,x').then(() => 'fetched', () => 'refused')"
    assert page.evaluate(fetched) == "refused"
    page.close()


def test_it_looks_like_something(page, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    pixels = image.imread(io.BytesIO(page.screenshot(full_page=True)))[..., :3]
    height, width, _ = pixels.shape
    assert width == 1200 and height > 1000
    for colour in ("#0072b2", "#d55e00", "#009e73"):  # batch or input, running, output
        wanted = np.array(list(bytes.fromhex(colour[1:]))) / 255
        assert np.mean(np.abs(pixels - wanted).max(axis=-1) < 0.02) > 2e-4, colour
    blank = np.all(pixels == 1, axis=-1)
    assert 0.3 < blank.mean() < 0.95
    quarters = np.array_split(blank, 4)
    assert all(not quarter.all() for quarter in quarters)
    # Nothing is wider than the window, even that of a telephone.
    for size in (1200, 400):
        page.set_viewport_size({"width": size, "height": 800})
        assert page.locator("svg").evaluate_all(
            f"all => all.every(svg => svg.getBoundingClientRect().right <= {size})"
        )
