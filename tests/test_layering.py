"""The import rules of the house, read from the source; and what a cold start may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("training", "export", "service")
ROOMS_OF_TRAINING = ("gaze", "masks", "networks", "learning", "scoring")
HEAVY = {"torch", "monai", "numpy", "scipy", "cv2"}
# Which rooms a room may import; the core's root, engines, node and cli are rooms of the core.
MAY_IMPORT = {
    "core": {"core", "engines"},
    "engines": {"core", "engines"},
    "cli": {"core", "engines", "cli"},
    "node": {"core", "node"},
    "training": {"core"},
    "training.gaze": {"core", "training", "training.gaze"},
    "training.masks": {"core", "training", "training.gaze", "training.masks"},
    "training.networks": {"core", "training", "training.networks"},
    "training.learning": {"core", "training", "training.gaze", "training.masks", "training.networks", "training.learning"},
    "training.scoring": {"core", "training", "training.networks", "training.scoring"},
    "export": {"core", "engines", "export", "training"} | {f"training.{room}" for room in ROOMS_OF_TRAINING},
    "service": {"core", "engines", "service"},
}  # fmt: skip
CORE_USED_BY_ENGINES = {"contract", "cpus", "errors", "files", "progress"}
SETTINGS = (  # what the command line takes its defaults from, and so may import at the top
    "export/settings.py",
    "training/learning/config.py",
    "training/learning/student.py",
    "training/masks/settings.py",
    "training/networks/architecture.py",
)
SOURCES = sorted(path for folder in ("gazeseg_serve", *STAGES) for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The name under which the file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "gazeseg_serve" else ("gazeseg_serve", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(text: str, package: str) -> list[tuple[str, bool]]:
    """(absolute module name, is it at module level) of every import in a source text of `package`.

    `from a import b` counts as a and as a.b. What stands under TYPE_CHECKING does not run and does not count.
    """
    tree = ast.parse(text)
    unseen = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
              for part in node.body for inner in ast.walk(part)}  # fmt: skip
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
              for node in ast.walk(function)}  # fmt: skip
    found = []
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            module = (f"{base}.{node.module}" if node.module else base) if node.level else str(node.module)
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found += [(name, id(node) not in inside) for name in names]
    return found


def imports_of(path: Path) -> list[tuple[str, bool]]:
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rsplit(".", 1)[0]
    return imported_modules(path.read_text(), package)


def room_of(module: str) -> str | None:
    """The room a module of ours lies in; None for others' modules."""
    parts = module.split(".")
    if parts[0] != "gazeseg_serve":
        return None
    if parts == ["gazeseg_serve", "__main__"]:  # python -m gazeseg_serve
        return "cli"
    if len(parts) > 1 and parts[1] in ("engines", "cli", "export", "service"):
        return parts[1]
    if len(parts) > 1 and parts[1] == "training":
        return ".".join(parts[1:3]) if len(parts) > 2 and f"training.{parts[2]}" in MAY_IMPORT else "training"
    return "core"


def is_settings(name: str) -> bool:
    """Whether `name` is a module of settings, or something in one."""
    modules = {file.removesuffix(".py").replace("/", ".") for file in SETTINGS}
    short = name.removeprefix("gazeseg_serve.")
    return short in modules or short.rsplit(".", 1)[0] in modules


def trespasses(own: str, module: str, imports: Iterable[tuple[str, bool]]) -> list[str]:
    """What a module of room `own` imports and may not."""
    found = []
    for name, at_top in imports:
        room = room_of(name)
        stage_of_a_verb = own == "cli" and (not at_top or is_settings(name))
        if room is not None and name != "gazeseg_serve" and room not in MAY_IMPORT[own] | {own} and not stage_of_a_verb:
            found.append(name)
        first = name.split(".")[0]
        if own in ("core", "engines", "cli", "service") and first in ("torch", "monai"):
            found.append(name)
        if first == "bentoml" and module != "gazeseg_serve.service.app":
            found.append(name)
        if own == "engines" and room == "core" and len(name.split(".")) > 1 and name.split(".")[1] not in CORE_USED_BY_ENGINES:
            found.append(name)
    return found


def circle(imports: dict[str, set[str]]) -> list[str]:
    """One circle of modules that import each other at module level or not, or an empty list."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for other in sorted(imports.get(module, ())):
            found = walk(other, [*way, module])
            if found:
                return found
        done.add(module)
        return []

    return next((found for module in sorted(imports) if (found := walk(module, []))), [])


def files_imported(path: Path, known: set[str]) -> set[str]:
    """The files that a file imports; a package's own `__init__` is the package, and does not count."""
    return {name for name, _ in imports_of(path) if name in known and name != module_of(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    own = room_of(module_of(path))
    assert own is not None
    assert trespasses(own, module_of(path), imports_of(path)) == []


def test_no_two_files_import_each_other_in_a_circle() -> None:
    known = {module_of(path) for path in SOURCES if path.name != "__init__.py"}
    assert circle({module_of(path): files_imported(path, known) for path in SOURCES}) == []


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_load_nothing_heavy(name: str) -> None:
    module = module_of(ROOT / name)
    code = f"import sys, {module}\nprint(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_fits_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize(
    ("room", "module", "text"),
    [
        ("service", "gazeseg_serve.service.bad", "from ..training.learning import loop"),
        ("service", "gazeseg_serve.service.bad", "from gazeseg_serve import export"),
        ("service", "gazeseg_serve.service.bad", "def f():\n    import torch"),
        ("service", "gazeseg_serve.service.bad", "import bentoml"),
        ("core", "gazeseg_serve.bad", "from .cli import main"),
        ("cli", "gazeseg_serve.cli.bad", "from ..export.demo import run_demo"),
        ("engines", "gazeseg_serve.engines.bad", "from ..predictor import Predictor"),
        ("training.gaze", "gazeseg_serve.training.gaze.bad", "from ..masks.levels import IGNORE"),
        ("training.scoring", "gazeseg_serve.training.scoring.bad", "from ..learning import loop"),
    ],
)
def test_each_rule_of_the_rooms_can_be_broken(room: str, module: str, text: str) -> None:
    assert trespasses(room, module, imported_modules(text, module.rsplit(".", 1)[0])) != []


def test_a_verb_may_import_its_stage_inside_its_function() -> None:
    text = "def demo():\n    from ..export.demo import run_demo"
    assert trespasses("cli", "gazeseg_serve.cli.ship", imported_modules(text, "gazeseg_serve.cli")) == []


def test_a_circle_is_found_and_named() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_cold_start_loads_nothing_heavy(argument: str) -> None:
    code = (
        f"import sys; sys.argv = ['gazeseg-serve', {argument!r}]\nfrom gazeseg_serve.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', sorted({'torch', 'numpy', 'bentoml', 'cv2', 'PIL', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip().endswith("LOADED []"), done.stdout[-200:] + done.stderr[-500:]
