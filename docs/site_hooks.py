"""The hooks of the site: pages of the repository outside of docs/, and links to its files, become pages of the site.

README.md is the home page. A link to a file outside of docs/, which a repository host would follow, leads to a page
that shows the file.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "security.md",
}
LINK_PATTERN = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]+)")  # the target of a relative link, without its anchor
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "sh"}
DOCS = "docs/"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root, and a page for each file outside of docs/ that a page links to."""
    from mkdocs.structure.files import File

    linked: set[str] = set()
    for page in files.documentation_pages():
        linked |= {*_find_outside(Path(page.abs_src_path).read_text(encoding="utf-8"), f"{DOCS}{page.src_uri}")}
    for path, site_path in ROOT_PAGES.items():
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        linked |= {*_find_outside(text, path)}
        files.append(File.generated(config, site_path, content=move_links(text, path)))
    for path in sorted(linked - {*ROOT_PAGES}):
        files.append(File.generated(config, find_site_path(path), content=show_source(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page of docs/ to files outside of it into links to the pages that show them."""
    return markdown if page.file.generated_by else move_links(markdown, f"{DOCS}{page.file.src_uri}")


def find_site_path(path: str) -> str:
    """Return the path in the site of a file or a folder of the repository."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return ROOT_PAGES.get(path, f"source/{path}.md")


def move_links(text: str, path: str) -> str:
    """Return the text of a page with its relative links as they have to be in the site.

    Args:
        text: The Markdown text.
        path: The path of the page in the repository.
    """
    folder = posixpath.dirname(find_site_path(path))

    def move(match: re.Match[str]) -> str:
        target = _resolve(match[1], path)
        return match[1] if target is None else posixpath.relpath(find_site_path(target), folder or ".")

    return LINK_PATTERN.sub(move, text)


def show_source(path: str) -> str:
    """Return a page that shows a file of the repository, or the files of a folder, and that the search leaves out."""
    source = REPOSITORY / path
    paths = [source]
    if source.is_dir():
        files = [file for file in source.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        paths = sorted(files)
    sections = ["---\nsearch: {exclude: true}\n---", f"# {path}"]
    for file in paths:
        if source.is_dir():
            sections.append(f"## {file.relative_to(source)}")
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".ipynb":
            sections.extend(_show_cells(text))
        else:
            sections.append(f"````{LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n````")
    return "\n\n".join(sections) + "\n"


def _show_cells(notebook: str) -> Iterator[str]:
    """Yield the cells of a notebook as Markdown, without their outputs; its headings stand below that of the page."""
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield re.sub(r"^#", "##", source, flags=re.MULTILINE)
        else:
            yield f"````python\n{source}\n````"


def _find_outside(text: str, path: str) -> Iterator[str]:
    """Yield the files and folders outside of docs/ that a page links to."""
    for target in LINK_PATTERN.findall(text):
        resolved = _resolve(target, path)
        if resolved and not resolved.startswith(DOCS):
            yield resolved


def _resolve(target: str, path: str) -> str | None:
    """Return the path in the repository that a link leads to; None where there is no such file."""
    resolved = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return resolved if not resolved.startswith("..") and (REPOSITORY / resolved).exists() else None
