"""Tables of text in each of their forms."""

import io

from rich.console import Console

from forcetune.report.tables import Table

TABLE = Table(["method", "90 %"], [["snip", "1.0 ± 0.5"], ["[red]a_b", "2.0 †1"]], {"method"}, "A <caption>.", "†: it.")


def test_a_terminal_shows_cells_as_they_are():
    console = Console(width=80, file=io.StringIO())
    console.print(TABLE.to_terminal())
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines == ["method         90 %", "snip      1.0 ± 0.5", "[red]a_b     2.0 †1"]


def test_html_is_escaped_and_text_stands_on_the_left():
    html = TABLE.to_html()
    assert html.startswith("<table><caption>A &lt;caption&gt;.</caption><thead><tr>")
    assert '<th scope="col" class="words">method</th><th scope="col">90 %</th>' in html
    assert '<tr><td class="words">snip</td><td>1.0 ± 0.5</td></tr>' in html


def test_markdown_has_the_caption_above_and_the_legend_below():
    assert TABLE.to_markdown() == (
        "A <caption>.\n\n| method | 90 % |\n| --- | ---: |\n| snip | 1.0 ± 0.5 |\n| [red]a_b | 2.0 †1 |\n\n†: it.\n"
    )


def test_latex_has_a_caption_only_where_the_table_has_one():
    text = TABLE.to_latex()
    assert "  \\caption{A <caption>. $\\dagger$: it.}\n  \\begin{tabular}{lr}\n" in text
    assert "  [red]a\\_b & 2.0 $\\dagger$1 \\\\\n" in text
    assert "caption" not in Table(["a"], [["1"]]).to_latex()
