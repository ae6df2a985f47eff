"""The command line's reference, read from the Typer application itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from planner.cli.app import application

__all__ = ["command_reference"]

_START = """# Command line

Made from the commands themselves while this site is built; `planner COMMAND --help` says the same. Progress, notes and
errors go to standard error, results to standard output. Exit code 2: something that you gave cannot be used, and the
message says what, where and what to do. Exit code 1: something failed on the way.
"""


def command_reference() -> str:
    """One Markdown page with every command, its arguments, options and example."""
    root = typer.main.get_command(application())
    return _START + "".join(_section(words, command) for words, command in _walk(root, ("planner",)))


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        if hasattr(sub, "commands"):
            yield from _walk(sub, (*words, name))
        elif not sub.hidden:
            yield (*words, name), sub


def _section(words: tuple[str, ...], command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
    usage = " ".join([*words, *(_placeholder(p) for p in arguments), *(["[OPTIONS]"] if options else [])])
    text = f"\n## {' '.join(words)}\n\n{command.help}\n\n```text\n{usage}\n```\n"
    if arguments:
        text += _table("Argument", [(f"`{_placeholder(p)}`", p.help, p) for p in arguments])
    if options:
        text += _table("Option", [(", ".join(f"`{o}`" for o in p.opts), p.help, p) for p in options])
    return text + (f"\n{command.epilog}\n" if command.epilog else "")


def _placeholder(argument: Any) -> str:
    name = argument.name.rstrip("_").upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _table(head: str, rows: list[tuple[str, str | None, Any]]) -> str:
    lines = [f"\n| {head} | What | Default |", "| --- | --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(text or '')} | {_default(p)} |" for name, text, p in rows]
    return "\n".join(lines) + "\n"


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or callable(value) or value == ():
        return ""
    return f"`{_cell(str(value))}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
