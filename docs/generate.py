"""Write the reference pages, docs/api.md, cli.md, config.md and http-routes.md, from the program itself.

python docs/generate.py            write them; a test fails where they are stale
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import typer.main

import gazeseg_serve
from gazeseg_serve.cli.main import app

DOCS = Path(__file__).parent


def cli_page() -> str:
    """Every command with its arguments, options and defaults, as its `--help` has them."""
    group: Any = typer.main.get_command(app)
    parts = [
        "# Commands",
        "",
        "Generated from the program by `python docs/generate.py`. Exit status: 0 done; 1 the user's "
        "problem or a gate that did not hold, in one line on stderr; 2 usage.",
        "",
    ]
    for name, command in sorted(group.commands.items()):
        text, _, example = command.help.partition("Example:")
        parts += [f"## {name}", "", " ".join(text.split()), ""]
        if example:
            parts += [f"    {' '.join(example.split())}", ""]
        rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
        parts += ["| | default | |", "|---|---|---|", *rows, ""]
    return "\n".join(parts)


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        metavar = parameter.metavar or parameter.name.upper()
        label, default = f"`{metavar}`", "required" if parameter.required else ""
    else:
        label = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        default = "required" if parameter.required else _default(parameter.default)
    return f"| {label} | {default} | {(getattr(parameter, 'help', None) or '').replace('|', '&#124;')} |"


def _default(value: object) -> str:
    empty = value is None or value == "" or value is False or value == [] or value == () or "UNSET" in repr(value).upper()
    return "" if empty else f"`{value}`"


def http_page() -> str:
    """Every route with its parameters and answers, as the service's own OpenAPI document has them."""
    from gazeseg_serve.service.app import SWAGGER_UI, AdaptiveBatching
    from gazeseg_serve.service.routes import create_api
    from gazeseg_serve.service.runtime import Runtime
    from gazeseg_serve.service.settings import Settings

    document = create_api(Runtime(Settings(_env_file=None), AdaptiveBatching), SWAGGER_UI).openapi()  # type: ignore[call-arg]
    parts = [
        "# Routes",
        "",
        "Generated from the service's OpenAPI document by `python docs/generate.py`; how to use "
        "them is told in [the HTTP interface](http-api.md).",
        "",
    ]
    for path, methods in sorted(document["paths"].items()):
        for method, route in sorted(methods.items()):
            text = route.get("description") or route.get("summary") or ""
            parts += [f"## {method.upper()} {path}", "", " ".join(text.split()), ""]
            if parameters := route.get("parameters"):
                parts += ["| parameter | in | |", "|---|---|---|"]
                parts += [f"| `{p['name']}` | {p['in']} | {' '.join(p.get('description', '').split())} |" for p in parameters]
                parts += [""]
            answers = [
                f"{status}: {' '.join(answer.get('description', '').split())}"
                for status, answer in sorted(route.get("responses", {}).items())
            ]
            parts += ["Answers: " + "; ".join(answers) + ".", ""]
    return "\n".join(parts)


def config_page() -> str:
    """Every key of a training's TOML file and of a student's, from the dataclasses that read them."""
    from gazeseg_serve.training.learning.config import TrainConfig
    from gazeseg_serve.training.learning.student import Student

    parts = [
        "# Configuration files",
        "",
        "Generated from the program by `python docs/generate.py`. A key that is left out has its default; an "
        "unknown key or a value out of range is refused by name; `--set section.key=value` overrides one.",
        "",
        "## A training",
        "",
        "    gazeseg-serve train configs/kvasir_small.toml --data DATASET --masks MASKS --out RUN",
        "",
    ]
    sections = dataclasses.fields(TrainConfig)
    parts += _keys([field for field in sections if "explanation" in field.metadata])
    for section in sections:
        if "explanation" not in section.metadata:
            kind = section.default_factory
            parts += [f"### [{section.name}]", "", " ".join((kind.__doc__ or "").split()), "", *_keys(dataclasses.fields(kind))]
    parts += [
        "## A student",
        "",
        "    gazeseg-serve export RUN --strategy distill --student configs/student_small.toml --data DATASET --out ARTIFACT",
        "",
        *_keys(dataclasses.fields(Student)),
    ]
    return "\n".join(parts)


def _keys(fields: Any) -> list[str]:
    rows = [f"| `{field.name}` | `{_toml(field.default)}` | {field.metadata['explanation']} |" for field in fields]
    return ["| key | default | |", "|---|---|---|", *rows, ""]


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


API = {
    "Serving": ("Predictor", "Prediction", "read_image", "decode_image"),
    "Asking a service": ("Client", "AsyncClient"),
    "Gaze to pseudo-masks": ("make_masks", "MaskSettings", "Dataset"),
    "Pseudo-masks to a run": ("train", "load_config", "TrainConfig", "evaluate"),
    "A run to one graph": ("export_run", "ExportSettings", "Student", "load_student"),
    "Folders and errors": ("Run", "Artifact", "InputSpec", "GazesegError"),
}
API_START = """# Python

Generated from the docstrings by `python docs/generate.py`. Everything here is imported from `gazeseg_serve`; a name loads when
it is used, so that serving needs no torch. Whatever is raised on purpose is a `GazesegError`.

```python
from gazeseg_serve import Predictor, read_image

predictor = Predictor.open("artifacts/polyps")
prediction = predictor.predict(read_image("photo.jpg"))
mask = prediction.mask()  # uint8 (H, W), the photo's own size: 1 where the model sees the target
```
"""


def api_page() -> str:
    """Every public name with its signature and docstring, and the public methods of classes."""
    parts = [API_START]
    for title, names in API.items():
        parts += [f"## {title}", ""]
        for name in names:
            found = getattr(gazeseg_serve, name)
            parts += _entry(f"### {name}", name, found)
            if inspect.isclass(found):
                for method, member in _methods(found):
                    parts += _entry(f"#### {name}.{method}", method, member)
    return "\n".join(parts)


def _methods(found: type) -> list[tuple[str, Any]]:
    ours = [one for one in reversed(found.__mro__) if one.__module__.startswith("gazeseg_serve")]
    named = {name: member for one in ours for name, member in vars(one).items() if not name.startswith("_")}
    kinds = (classmethod, staticmethod, property)
    return [(name, member) for name, member in named.items() if isinstance(member, kinds) or inspect.isfunction(member)]


def _entry(heading: str, name: str, member: Any) -> list[str]:
    inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
    fields = dataclasses.is_dataclass(inner) and isinstance(inner, type)
    if isinstance(member, property) or (fields and len(dataclasses.fields(inner)) > 8):
        shown = name
    else:
        is_plain = inspect.isclass(inner) and not fields and "__init__" not in vars(inner)
        shown = name if is_plain else f"{name}{inspect.signature(inner)}"
    text = inspect.getdoc(inner) or ""
    return [
        heading,
        "",
        "```python",
        textwrap.fill(shown.replace("'", ""), 110, subsequent_indent="    "),
        "```",
        "",
        "```text",
        text,
        "```",
        "",
    ]


PAGES = {"api.md": api_page, "cli.md": cli_page, "config.md": config_page, "http-routes.md": http_page}

if __name__ == "__main__":
    from gazeseg_serve.files import write_text

    for name, make in PAGES.items():
        write_text(DOCS / name, make().rstrip() + "\n")
