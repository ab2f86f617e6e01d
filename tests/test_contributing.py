"""The page for contributors: its method is scored and tested as it says, and its links and commands exist."""

import re

import torch
from shared_constants import REPOSITORY
from torch import nn

from forcetune.pruning import METHODS, Method, Network, Weights, find_masks

PAGES = [REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "SECURITY.md"]


def test_the_method_of_the_page(monkeypatch):
    saliency, row, test = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    rows = dict(METHODS)
    names = {"METHODS": rows, "Method": Method, "Network": Network, "Weights": Weights, "find_masks": find_masks}
    names |= {"torch": torch, "nn": nn}
    exec(saliency + row, names)
    for name in rows.keys() - METHODS.keys():
        monkeypatch.setitem(METHODS, name, rows[name])
    exec(test, names)
    names["test_signed_sensitivity"]()


def test_links_and_commands_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            linked = REPOSITORY / path
            assert linked.exists(), f"{page.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, f"{page.name}: {target}"
        for command in re.findall(r"make ([\w-]+)", page.read_text()):
            assert re.search(rf"^{command}:", makefile, re.MULTILINE), f"{page.name}: make {command}"
