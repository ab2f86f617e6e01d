"""The direction of imports, and the rooms that may import each vendor."""

import ast
import subprocess
import sys

import pytest
from shared_constants import REPOSITORY

PACKAGE = REPOSITORY / "forcetune"

# The rooms that each room may import. It may also import the rooms that these may import.
ALLOWED_ROOMS = {
    "baseline": ["jobs", "run", "report", "deploy", "tracking", "analysis", "study", "programs"],
    "jobs": ["run", "tracking", "local", "study"],
    "local": ["tracking", "stores", "temporary", "locks"],
    "report": ["tracking", "analysis", "formats", "study"],
    "deploy": ["tracking", "analysis", "trial", "formats", "locks"],
    "formats": [],
    "timers": ["stores"],
    "run": ["execution", "search", "ledger", "tracking", "report", "study", "programs"],
    "execution": ["search", "ledger", "trial", "study", "formats", "temporary"],
    "search": ["ledger", "tracking", "analysis", "study", "training", "formats", "programs"],
    "ledger": ["tracking", "study", "locks", "state_files"],
    "trial": ["training", "pruning", "models", "data", "study"],
    "tracking": ["stores", "temporary"],
    "analysis": [],
    "study": ["training", "pruning", "models", "data"],
    "training": ["pruning", "models", "data"],
    "pruning": ["models"],
    "models": ["names"],
    "data": ["names"],
    "names": ["containment"],
    "containment": ["errors"],
    "stores": ["state_files"],
    "state_files": ["errors"],
    "temporary": ["errors"],
    "locks": [],
    "programs": ["errors"],
    "errors": [],
}
ALLOWED_ROOMS["cli"] = [*ALLOWED_ROOMS]
ALLOWED_ROOMS["__main__"] = ["cli"]
FOUNDATION_ROOMS = ["pruning", "training", "models", "data"]

# The rooms that may import each vendor.
VENDOR_ROOMS = {
    "mlflow": ["tracking"],
    "optuna": ["search", "ledger"],
    "ray": ["execution", "jobs"],
    "pydantic": ["study"],
    "pandas": ["tracking", "analysis", "search", "report", "baseline", "cli"],
    "moocore": ["analysis"],
    "scipy": ["analysis", "data"],
    "statsmodels": ["analysis"],
    "matplotlib": ["baseline"],
    "rich": ["report", "run", "execution", "search", "baseline", "cli"],
    "click": ["cli"],
    "yaml": ["study", "tracking"],
    "sqlalchemy": ["stores", "ledger"],
    "plotly": ["report"],
    "jinja2": ["report"],
    "markupsafe": ["report"],
    "psutil": ["local", "temporary"],
    "torch": [*FOUNDATION_ROOMS, "trial", "execution", "ledger", "deploy"],
    "torchvision": ["models", "data"],
    "safetensors": ["pruning", "deploy"],
    "onnx": ["deploy"],
    "onnx_ir": ["deploy"],
    "onnxscript": ["deploy"],
    "onnxruntime": ["deploy"],
    "zstandard": ["deploy"],
    "sklearn": ["data"],
    "IPython": ["search"],
    "upath": ["state_files"],
}


def find_room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def list_imports(path, inside_functions=True):
    """Yield the dotted names that a module imports; `from forcetune import study` gives forcetune.study."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_allowed_rooms(room_name):
    return {
        room for direct_room in ALLOWED_ROOMS[room_name] for room in (direct_room, *find_allowed_rooms(direct_room))
    }


PACKAGE_FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def shorten_path(path):
    return str(path.relative_to(PACKAGE))


def test_imports_go_one_way():
    """Count imports inside functions and for type checks too."""
    violations = {}
    for path in PACKAGE_FILES:
        importing_room = find_room(path)
        imported_rooms = {name.split(".")[1] for name in list_imports(path) if name.startswith("forcetune.")} - {
            importing_room,
            "__version__",
        }
        # every room may refuse input and resolve names
        if surplus := imported_rooms - {
            *find_allowed_rooms(importing_room),
            "errors",
            "names",
            "containment",
        }:
            violations[shorten_path(path)] = surplus
    assert violations == {}


def test_one_vendor_has_one_room():
    violations = {}
    for path in PACKAGE_FILES:
        vendors = {name.split(".")[0] for name in list_imports(path)} & {*VENDOR_ROOMS}
        if surplus := {vendor for vendor in vendors if find_room(path) not in VENDOR_ROOMS[vendor]}:
            violations[shorten_path(path)] = surplus
    assert violations == {}


def test_one_file_has_the_sql_against_mlflows_tables():
    readers = {shorten_path(path) for path in PACKAGE_FILES if "sqlite3" in list_imports(path)}
    assert readers == {"stores.py", "tracking/schema.py", "tracking/sqlite.py"}, "schema.py makes the tables"


def test_every_room_and_vendor_is_read():
    assert {find_room(path) for path in PACKAGE_FILES} >= {*ALLOWED_ROOMS} - {"__main__"}
    vendors = {name.split(".")[0] for path in PACKAGE_FILES for name in list_imports(path)}
    assert {"mlflow", "optuna", "ray", "pydantic", "pandas", "rich", "click", "torch"} <= vendors


def test_a_study_asks_for_the_tables_only_when_it_validates():
    violations = {}
    for path in (path for path in PACKAGE_FILES if find_room(path) == "study"):
        eager_imports = {
            name.split(".")[1] for name in list_imports(path, inside_functions=False) if name.startswith("forcetune.")
        }
        if surplus := eager_imports & {*FOUNDATION_ROOMS}:
            violations[shorten_path(path)] = surplus
    assert violations == {}


def run_python(code):
    """Return the words that a new interpreter prints, which has loaded no module yet."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_the_lower_rooms_work_where_no_other_vendor_is_installed():
    code = """
import sys
for vendor in ("ray", "optuna", "mlflow", "pydantic", "pandas", "rich", "click", "yaml", "sqlalchemy"):
    sys.modules[vendor] = None  # importing it fails
from forcetune import data, models, pruning, training
dataset = data.load("synthetic")
images, _ = dataset.split(0)
model = models.build("mlp", dataset.input_shape, dataset.classes, 12)
masks = pruning.find_masks(model, data.Batches(dataset, images, 64, 0), "force", 0.1, iterations=3)
pruning.diagnose(model, masks, dataset.input_shape)
training.Masked(model, masks)
print(sum(int(mask.sum()) for mask in masks.values()))
"""
    assert run_python(code) == ["83"]


def test_importing_the_report_loads_no_heavy_package():
    code = """
import sys
import forcetune.report
print(*{"torch", "ray", "mlflow", "optuna", "pandas", "plotly"} & {*sys.modules})
"""
    assert run_python(code) == []


@pytest.mark.parametrize("module", ["cli", "jobs", "local.ui", "tracking", "analysis", "report.results", "study"])
def test_heavy_imports_are_lazy(module):
    code = f"""
import sys
import forcetune.{module}
print(*{{"torch", "ray", "mlflow", "optuna"}} & {{*sys.modules}})
"""
    assert run_python(code) == []
