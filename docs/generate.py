"""Write the reference pages, docs/cli.md and docs/http-routes.md, from the program itself.

python docs/generate.py            write them; a test fails where they are stale
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer.main

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


PAGES = {"cli.md": cli_page, "http-routes.md": http_page}

if __name__ == "__main__":
    from gazeseg_serve.files import write_text

    for name, make in PAGES.items():
        write_text(DOCS / name, make().rstrip() + "\n")
