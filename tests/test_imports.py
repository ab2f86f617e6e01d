"""Imports go one way, and one vendor has one room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "forcetune"

# What each room may import of the others, straight from the lines of the house; what lies below those it may too.
BELOW = {
    "baseline": ["jobs", "run", "results", "tracking", "analysis", "study", "pages"],
    "jobs": ["run", "tracking", "local", "study"],
    "local": ["tracking", "stores", "temporary"],
    "report": ["results", "tracking", "analysis", "pages", "times", "study"],
    "results": ["tracking", "analysis", "study"],
    "pages": [],
    "times": [],
    "comparison": ["analysis", "study"],
    "timers": ["stores"],
    "show": ["times", "baseline", "jobs", "local", "execution", "search", "trial", "analysis", "stores", "study"],
    "run": ["execution", "search", "ledger", "tracking", "study"],
    "execution": ["search", "ledger", "trial", "study", "times", "temporary"],
    "search": ["ledger", "tracking", "analysis", "study", "training", "times"],
    "ledger": ["tracking", "study"],
    "trial": ["training", "pruning", "models", "data", "study"],
    "tracking": ["stores", "temporary"],
    "analysis": [],
    "study": ["training", "pruning", "models", "data"],
    "training": ["pruning", "models", "data"],
    "pruning": ["names"],
    "models": ["names"],
    "data": ["names"],
    "names": ["containment"],
    "containment": ["errors"],
    "stores": ["errors"],
    "temporary": ["errors"],
    "errors": [],
}
BELOW["cli"] = [*BELOW]
BELOW["__main__"] = ["cli"]
FOUNDATION = ["pruning", "training", "models", "data"]

# Where each vendor may be named: a room, or a file of it.
VENDORS = {
    "mlflow": ["tracking"],
    "optuna": ["search", "ledger"],
    "ray": ["execution", "jobs"],
    "pydantic": ["study"],
    "pandas": ["tracking", "analysis", "search", "results", "comparison", "report", "baseline", "cli", "show"],
    "moocore": ["analysis"],
    "scipy": ["analysis", "comparison", "data"],
    "statsmodels": ["analysis"],
    "matplotlib": ["baseline"],
    "rich": ["show", "run", "execution", "search", "baseline", "cli"],
    "click": ["cli"],
    "yaml": ["study", "comparison", "tracking"],
    "sqlalchemy": ["stores", "ledger"],
    "plotly": ["report"],
    "psutil": ["local", "temporary"],
    "torch": [*FOUNDATION, "trial", "execution", "ledger"],
    "torchvision": ["models", "data"],
    "safetensors": ["pruning"],
    "sklearn": ["data"],
}


def room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path, inside_functions=True):
    """The dotted names that a module imports, `from forcetune import study` as forcetune.study."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name):
    return {found for direct in BELOW[name] for found in (direct, *below(direct))}


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def names(path):
    return str(path.relative_to(ROOT))


def test_imports_go_one_way():
    """Imports inside functions and for type checks count too."""
    wrong = {}
    for path in FILES:
        own = room(path)
        used = {name.split(".")[1] for name in imports(path) if name.startswith("forcetune.")} - {own, "__version__"}
        if surplus := used - {
            *below(own),
            "errors",
            "names",
            "containment",
        }:  # every room refuses input, resolves names
            wrong[names(path)] = surplus
    assert wrong == {}


def test_one_vendor_has_one_room():
    wrong = {}
    for path in FILES:
        vendors = {name.split(".")[0] for name in imports(path)} & {*VENDORS}
        if surplus := {vendor for vendor in vendors if room(path) not in VENDORS[vendor]}:
            wrong[names(path)] = surplus
    assert wrong == {}


def test_these_tests_see_what_is_there():
    assert {room(path) for path in FILES} >= {*BELOW} - {"__main__"}
    seen = {name.split(".")[0] for path in FILES for name in imports(path)}
    assert {"mlflow", "optuna", "ray", "pydantic", "pandas", "rich", "click", "torch"} <= seen


def test_a_study_asks_for_the_tables_only_when_it_validates():
    wrong = {}
    for path in (path for path in FILES if room(path) == "study"):
        at_once = {
            name.split(".")[1] for name in imports(path, inside_functions=False) if name.startswith("forcetune.")
        }
        if surplus := at_once & {*FOUNDATION}:
            wrong[names(path)] = surplus
    assert wrong == {}


def python(code):
    """What another interpreter prints, so that nothing is loaded yet."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_lower_rooms_work_where_no_other_vendor_is_installed():
    code = """
import sys
for vendor in ("ray", "optuna", "mlflow", "pydantic", "pandas", "rich", "click", "yaml", "sqlalchemy"):
    sys.modules[vendor] = None  # importing it fails
from forcetune import data, models, pruning, training
dataset = data.load("synthetic")
images, _ = dataset.split(0)
model = models.build("mlp", dataset.input_shape, dataset.classes, 12)
masks = pruning.find_masks(model, data.Batches(dataset, images, 64, 0), "force", 0.1, 3)
pruning.diagnose(model, masks, dataset.input_shape)
training.Masked(model, masks)
print(sum(int(mask.sum()) for mask in masks.values()))
"""
    assert python(code) == ["83"]


@pytest.mark.parametrize("module", ["cli", "jobs", "local.ui", "tracking", "analysis", "results", "study"])
def test_heavy_imports_wait(module):
    code = f"""
import sys
import forcetune.{module}
print(*{{"torch", "ray", "mlflow", "optuna"}} & {{*sys.modules}})
"""
    assert python(code) == []
