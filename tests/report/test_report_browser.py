"""The page in a real browser: drawing, filter, sorting, clicks, dark colours, print, screen readers."""

import shutil
from contextlib import contextmanager
from html import escape
from itertools import pairwise

import numpy as np
import pytest

from forcetune.report import evidence, numbers
from forcetune.report.page import render_page

pytestmark = pytest.mark.long

BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER_PATH = next((path for name in BROWSER_NAMES if (path := shutil.which(name))), None)
BROWSER_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SHOWN_ROWS = "#trials-table tbody tr"
# counts the points of the main figure that are not dimmed
COUNT_BRIGHT_JS = """() => document.getElementById('plot-main').data
    .filter((trace) => trace.meta && trace.meta.points)
    .reduce((sum, trace) => sum + (trace.selectedpoints ? trace.selectedpoints.length : trace.x.length), 0)"""

# finds a trial of snip and the position of its point
FIND_POINT_JS = """() => {
    const plot = document.getElementById('plot-main');
    const of = ({ meta, name }) => meta && meta.points && name === 'snip';
    const is = (trace) => of(trace) && !trace.marker.symbol.endsWith('open');
    const drawn = [...plot.querySelectorAll('.scatterlayer .trace')].find((each) => is(each.__data__[0].trace));
    const box = drawn.querySelector('path.point').getBoundingClientRect();
    const name = drawn.__data__[0].trace.hovertext[0].match(/trial-\\d+/)[0];
    return [name, box.x + box.width / 2, box.y + box.height / 2];
}"""
# collects what a screen reader depends on, without the drawings, in which Plotly repeats ids
ACCESSIBILITY_JS = """() => {
    const all = (names) => [...document.querySelectorAll(names)];
    const other = (each) => document.getElementById(each.getAttribute('aria-labelledby'));
    const named = (each) => each.getAttribute('aria-label') || other(each);
    const ids = all('[id]').filter((each) => !each.closest('.plot > *')).map((each) => each.id);
    return {
        language: document.documentElement.lang,
        levels: all('h1, h2, h3, h4').map((each) => Number(each.tagName[1])),
        landmarks: ['header', 'nav', 'main', 'footer'].map((name) => all(name).length),
        nameless: all('[role=img], [role=region]').filter((each) => !named(each)).length,
        heads: all('th').filter((each) => !each.scope).length,
        fields: all('input, select').filter((each) => !each.labels.length).length,
        buttons: all('button').filter((each) => !each.hidden && each.tabIndex >= 0 && !each.textContent.trim()).length,
        repeated: ids.filter((id, place) => ids.indexOf(id) !== place),
    };
}"""


@pytest.fixture(scope="module")
def browser():
    if not BROWSER_PATH:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER_PATH, args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_path(tmp_path_factory, make_evidence):
    path = tmp_path_factory.mktemp("report") / "report-s.html"
    path.write_text(render_page(make_evidence()))
    return path


@pytest.fixture
def open_page(browser, page_path):
    """Return a context manager that opens the page, and asserts that it has no errors and loads local files only."""

    @contextmanager
    def open_tab(path=page_path, drawn=True, **options):
        tab = browser.new_page(**{"viewport": {"width": 1400, "height": 900}, **options})
        errors = []
        tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.route("**/*", lambda route: _allow_only_files(route, errors))
        tab.goto(path.as_uri())
        if drawn and options.get("java_script_enabled", True):
            tab.wait_for_selector("html[data-drawn]")
        yield tab
        tab.close()
        assert errors == []

    return open_tab


def _allow_only_files(route, errors):
    if route.request.url.startswith(("file:", "data:", "blob:")):
        route.continue_()
    else:
        errors.append(f"asked for {route.request.url}")
        route.abort()


def fill_filter(tab, text):
    """Write into the filter, wait until it is applied, and return the count."""
    before = tab.inner_text("#count")
    tab.fill("#words", text)
    tab.wait_for_function("before => document.getElementById('count').textContent !== before", arg=before)
    return tab.inner_text("#count")


def test_every_figure_is_drawn(open_page):
    with open_page() as tab:
        assert tab.locator(".plot").count() == tab.locator(".plot:has(.main-svg)").count() == 7
        assert tab.locator("#plot-main .scatterlayer path.point").count() >= 40
        assert tab.locator("#plot-layers .heatmaplayer image").count() == 1


def test_the_filter_counts_and_dims(open_page, make_evidence):
    trials = make_evidence().results.trials
    force = trials[(trials["label"] == "force") & (trials["sparsity"] > 0.9)]
    with open_page() as tab:
        assert tab.inner_text("#count").startswith("40 of 40 trials")
        assert tab.evaluate(COUNT_BRIGHT_JS) == 40
        assert fill_filter(tab, "force sparsity > 90%").startswith(f"{len(force)} of 40 trials")
        assert tab.locator(SHOWN_ROWS).count() == len(force) == tab.evaluate(COUNT_BRIGHT_JS)
        assert "no column “spasity”" in fill_filter(tab, "spasity>1")
        assert tab.get_attribute("#words", "aria-invalid") == "true"
        assert fill_filter(tab, "method=snip,random").startswith("20 of 40")
        assert fill_filter(tab, "macs<=0.4M trial-0003").startswith("1 of 40")
        assert fill_filter(tab, "").startswith("40 of 40")
        tab.select_option("#method", "snip")
        assert tab.inner_text("#count").startswith("10 of 40")
        tab.check("#only-front")
        assert tab.locator(SHOWN_ROWS).count() == ((trials["label"] == "snip") & trials["on_front"]).sum()


def test_columns_sort(open_page, make_evidence):
    rising = sorted(make_evidence().results.trials["sparsity"])
    with open_page() as tab:
        button = tab.locator("[data-sort=sparsity]")
        for order, expected in (("ascending", rising), ("descending", rising[::-1])):
            button.click()
            assert tab.get_attribute("th:has([data-sort=sparsity])", "aria-sort") == order
            sparsities = [
                float(text.strip("%")) / 100 for text in tab.locator(f"{SHOWN_ROWS} td:nth-child(3)").all_inner_texts()
            ]
            assert sparsities == pytest.approx(expected, abs=1e-4)
        assert tab.evaluate("document.activeElement.dataset.sort") == "sparsity"  # the focus stays


def test_a_click_on_a_point_finds_its_row_and_back(open_page):
    with open_page() as tab:
        fill_filter(tab, "nothing has this name")
        name, x, y = tab.evaluate(FIND_POINT_JS)
        tab.mouse.move(x, y)
        tab.mouse.click(x, y)
        tab.wait_for_selector("tr.chosen")
        assert tab.inner_text("tr.chosen th").startswith(name)
        assert tab.evaluate("document.activeElement.closest('tr').classList.contains('chosen')")
        assert tab.inner_text("#count").startswith("40 of 40")  # the filter is cleared, because it hid the row
        tab.locator(f"{SHOWN_ROWS} button").nth(3).press("Enter")
        tab.wait_for_selector("#plot-main .hoverlayer .hovertext")
        assert tab.locator(f"{SHOWN_ROWS}.chosen").count() == 1


def test_light_and_dark_change_at_once(open_page):
    ink = "getComputedStyle(document.querySelector('#plot-main .xtick text')).fill"
    with open_page(color_scheme="light") as tab:
        light = tab.evaluate(ink)
        tab.emulate_media(color_scheme="dark")
        tab.wait_for_function(f"() => {ink} !== '{light}'")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


def test_on_paper_the_front_is_a_table_and_colours_are_light(open_page):
    with open_page(color_scheme="dark") as tab:
        assert not tab.is_visible(".front")
        tab.locator("details.numbers summary").first.click()
        tab.emulate_media(media="print")
        tab.wait_for_function("() => document.documentElement.dataset.theme === 'light'")
        assert tab.is_visible(".front table")
        assert not tab.is_visible("#filter")
        assert tab.evaluate("document.querySelectorAll('details[open]').length") == 0
        assert tab.evaluate("document.getElementById('plot-main').layout.width") < 720
        tab.emulate_media(media="screen")
        tab.wait_for_function("() => !document.documentElement.dataset.theme")
        assert tab.is_visible("#filter")


def test_without_scripts_the_front_is_shown(open_page):
    with open_page(java_script_enabled=False) as tab:
        assert tab.is_visible(".front table")
        assert not tab.is_visible("#filter")


def test_tables_of_figures_have_their_numbers(open_page):
    with open_page() as tab:
        for details in tab.locator("details.numbers").all():
            details.locator("summary").click()
            details.locator("table").wait_for()
            assert details.locator("tbody tr").count() > 1
        assert tab.locator("details[data-source=curves] thead th").last.inner_text() == "epoch 5"


def test_a_screen_reader_can_read_the_page(open_page):
    with open_page() as tab:
        for details in tab.locator("details").all():
            details.locator("summary").click()
        outline = tab.evaluate(ACCESSIBILITY_JS)
    levels = outline.pop("levels")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert outline == {
        "language": "en",
        "landmarks": [1, 1, 1, 1],
        "nameless": 0,
        "heads": 0,
        "fields": 0,
        "buttons": 0,
        "repeated": [],
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_page, scheme):
    """Text must have a contrast of at least 4.5 (WCAG 2.1) against the page and the boxes on it."""
    with open_page(color_scheme=scheme) as tab:
        names = ["page", "card", "chosen", "ink", "dim", "accent"]
        style = "name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
        page_, card, chosen, ink, dim, accent = (luminance(tab.evaluate(style, name)) for name in names)
        pairs = [(front, back) for front in (ink, dim, accent) for back in (page_, card)]
        pairs += [(ink, chosen), (accent, chosen)]
        assert min((max(pair) + 0.05) / (min(pair) + 0.05) for pair in pairs) >= 4.5


def luminance(colour):
    shares = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_page_works_in_a_frame_with_scripts_alone(open_page, page_path, tmp_path):
    """MLflow shows a page among the artifacts of a run in such a frame."""
    path = tmp_path / "frame.html"
    path.write_text(f'<iframe sandbox="allow-scripts" srcdoc="{escape(page_path.read_text())}"></iframe>')
    with open_page(path, drawn=False) as tab:
        frame = tab.frame_locator("iframe")
        frame.locator("html[data-drawn]").wait_for(state="attached")
        assert frame.locator(SHOWN_ROWS).count() == 40


def test_html_in_names_is_not_run(open_page, make_study, tmp_path):
    malicious_name = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    rows = [
        (malicious_name, 0.1, 0.9, "trained"),
        ("snip", 0.05, 0.8, "trained"),
        (malicious_name, 0.01, 0.1, "collapsed"),
    ]
    path = tmp_path / "evil.html"
    path.write_text(
        render_page(evidence.Evidence(malicious_name, numbers.prepare_trials(make_study(rows, reason=malicious_name))))
    )
    with open_page(path) as tab:
        assert tab.inner_text("h1") == malicious_name
        assert tab.locator("img, script:not([nonce]):not([type])").count() == 0
        assert tab.locator(f"{SHOWN_ROWS} td:nth-child(2)").first.inner_text() in (malicious_name, "snip")


def test_five_thousand_trials(open_page, make_study, tmp_path):
    generator = np.random.default_rng(0)
    density = 10 ** generator.uniform(-2.5, -0.3, 5000)
    methods = generator.choice(["random", "snip", "force", "synflow", "grasp"], 5000)
    accuracy = 0.99 - 0.1 * np.log10(density) ** 2
    rows = [(m, d, a, "trained") for m, d, a in zip(methods, density, accuracy, strict=True)]
    path = tmp_path / "large.html"
    path.write_text(
        render_page(evidence.Evidence("s", numbers.prepare_trials(make_study(rows, lr=generator.uniform(0, 1, 5000)))))
    )
    assert path.stat().st_size < 10e6
    with open_page(path) as tab:
        assert tab.locator(SHOWN_ROWS).count() == 200
        assert "the first 200 are listed" in tab.inner_text("#count")
        tab.click("#more")
        assert tab.locator(SHOWN_ROWS).count() == 5000
        assert tab.evaluate(COUNT_BRIGHT_JS) == 5000
