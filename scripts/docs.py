"""Documentation that is made from the code: the settings table and the commands' help.

`python -m scripts.docs` writes it; `--check` fails where it has drifted.
"""

import argparse
import re
import sys
from pathlib import Path

import click

from scripts.environments import ROOT
from services.cli.main import main as roadqa
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


def _between(text: str, mark: str, body: str) -> str:
    pattern = rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)"
    return re.sub(pattern, lambda found: found.group(1) + body + found.group(2), text, flags=re.DOTALL)


def wanted() -> dict[Path, str]:
    """Each generated file with the text it should have."""
    readme = ROOT / "README.md"
    return {
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
