"""Documentation that is made from the code: the settings table, the commands' help, the seed preset's plans.

`python -m scripts.docs` writes it; `--check` fails where it has drifted.
"""

import argparse
import io
import re
import sys
from pathlib import Path

import click
from rich.console import Console

from scripts.environments import ROOT
from services.cli import forecast, planview
from services.cli.main import main as roadqa
from services.cli.memory import parse_devices
from services.cli.runs import read_pipeline
from shared.errors import RoadQAError
from shared.settings import Settings


def settings_table() -> str:
    """Every environment variable with its default and meaning."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = str(field.default) if "secret" not in type(field.default).__name__.lower() else ""
        lines.append(f"| `ROADQA_{name.upper()}` | {f'`{default}`' if default else '–'} | {field.description} |")
    return "\n".join(lines)


def commands() -> str:
    """The help of every command."""
    blocks = []

    def visit(command: click.Command, words: list[str]) -> None:
        ctx = click.Context(command, info_name=" ".join(words))
        blocks.append(f"## `{' '.join(words)}`\n\n```\n{command.get_help(ctx)}\n```")
        if isinstance(command, click.Group):
            for name in sorted(command.commands):
                visit(command.commands[name], [*words, name])

    visit(roadqa, ["roadqa"])
    return "\n\n".join(blocks)


def plans() -> str:
    """What `roadqa run --preset seed --plan` says with an empty store, of eight large cards and of a small one."""
    blocks = []
    for devices in ("8x80GB", "1x24GB"):
        pipeline = read_pipeline(None, "seed")
        found = forecast.forecast(None, pipeline, parse_devices(devices), devices)
        told = Console(file=io.StringIO(), width=150, markup=False, emoji=False, record=True)
        told.print(planview.view(found, pipeline.limits))
        lines = [line.rstrip() for line in told.export_text().splitlines()]
        try:
            forecast.check(found)
        except RoadQAError as error:
            lines.append(f"roadqa: {error}")
        command = f"$ roadqa run --preset seed --plan --devices {devices}"
        blocks.append("\n".join(["```", command, *lines, "```"]))
    return "\n\n".join(blocks)


def _between(text: str, mark: str, body: str) -> str:
    pattern = rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)"
    return re.sub(pattern, lambda found: found.group(1) + body + found.group(2), text, flags=re.DOTALL)


def wanted() -> dict[Path, str]:
    """Each generated file with the text it should have."""
    readme, operations = ROOT / "README.md", ROOT / "docs" / "operations.md"
    return {
        operations: _between(operations.read_text(), "plan", plans()),
        readme: _between(readme.read_text(), "settings", settings_table()),
        ROOT
        / "docs"
        / "cli.md": f"# The commands\n\nWritten by `python -m scripts.docs` from the code.\n\n{commands()}\n",
    }


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a file has drifted")
    check = parser.parse_args().check
    for path, text in wanted().items():
        if check and (not path.exists() or path.read_text() != text):
            sys.exit(f"{path.relative_to(ROOT)} has drifted from the code: run `python -m scripts.docs`")
        if not check:
            path.write_text(text)


if __name__ == "__main__":
    main()
