"""The import rules of the house, read from the source; and what a cold start may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("training", "export", "service")
MAY_IMPORT = {"gazeseg_serve": (), "training": (), "export": ("training",), "service": ()}
SOURCES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).glob("*.py"))]


def imported_modules(path: Path) -> list[tuple[str, bool]]:
    """(absolute module name, is it at module level) of every import in the file."""
    folder = path.parent.name
    package = "gazeseg_serve" if folder == "gazeseg_serve" else f"gazeseg_serve.{folder}"
    tree = ast.parse(path.read_text())
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
              for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            module = f"{base}.{node.module}" if node.level and node.module else node.module or base
            # `from gazeseg_serve import training` names the module in the alias.
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found += [(name, id(node) not in inside) for name in names]
    return found


def stages_in(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "gazeseg_serve" and len(parts) > 1 and parts[1] in STAGES else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_wing_imports_only_what_it_may(path: Path) -> None:
    own = path.parent.name
    for module, top_level in imported_modules(path):
        stage = stages_in(module)
        if stage is not None and stage != own:
            allowed = stage in MAY_IMPORT[own] or (path.name == "cli.py" and not top_level)
            assert allowed, f"{path.relative_to(ROOT)} imports {module}"
        if own in ("gazeseg_serve", "service"):
            assert module.split(".")[0] not in ("torch", "monai"), f"{path.relative_to(ROOT)} imports {module}"
        if module.split(".")[0] == "bentoml":
            assert own == "service", f"{path.relative_to(ROOT)} imports bentoml"
            assert path.name == "app.py", f"{path.relative_to(ROOT)} imports bentoml"


def test_the_rules_are_read_right(tmp_path: Path) -> None:
    folder = tmp_path / "service"
    folder.mkdir()
    source = folder / "bad.py"
    source.write_text("from ..training import loop\nfrom gazeseg_serve import export\ndef f():\n    import torch\n")
    found = dict(imported_modules(source))
    assert stages_in("gazeseg_serve.training") == "training"
    assert found["gazeseg_serve.training"] is True
    assert found["gazeseg_serve.export"] is True
    assert found["torch"] is False


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_cold_start_loads_nothing_heavy(argument: str) -> None:
    code = (f"import sys; sys.argv = ['gazeseg-serve', {argument!r}]\nfrom gazeseg_serve.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "print('LOADED', sorted({'torch', 'numpy', 'bentoml', 'cv2', 'PIL', 'onnx', 'onnxruntime'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip().endswith("LOADED []"), done.stdout[-200:] + done.stderr[-500:]
