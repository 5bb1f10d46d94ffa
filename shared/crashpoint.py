"""Named places at which a test lets a service die as if by `kill -9`.

    crashpoint("ipam.acquire.before_commit")

Costs one comparison. `CRASH_AT=name` in the environment ends the process there with status 137,
`CRASH_AT=name:3` at the third passage. Names are literals, so that `names()` can list them all from the source.
"""

import os
from pathlib import Path
from typing import Final

STATUS: Final = 137
"""What a shell reports for a process that SIGKILL ended."""

_name, _, _nth = os.environ.get("CRASH_AT", "").partition(":")
_passages_left = int(_nth or 1)


def crashpoint(name: str) -> None:
    """Die here if CRASH_AT says so: no clean-up, no flush, no goodbye to anyone."""
    if name != _name:
        return
    global _passages_left
    _passages_left -= 1
    if _passages_left == 0:
        os.write(2, f"crashpoint {name}\n".encode())
        os._exit(STATUS)


def names(*roots: Path) -> dict[str, Path]:
    """Every crash point in the Python files under `roots`, with its file.

    ValueError: a name is not a literal, or is used twice, so a test of it would not say where the process died.
    """
    import ast  # only the crash matrix needs it

    found: dict[str, Path] = {}
    for file in sorted(path for root in roots for path in root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if not (isinstance(node, ast.Call) and _callee(node) == "crashpoint"):
                continue
            match node.args:
                case [ast.Constant(value=str(name))]:
                    if name in found:
                        raise ValueError(f"{file}:{node.lineno}: crash point {name} is in {found[name]} too")
                    found[name] = file
                case _:
                    raise ValueError(f"{file}:{node.lineno}: a crash point's name must be a literal")
    return found


def _callee(call: "object") -> str:
    function = getattr(call, "func", None)
    return str(getattr(function, "id", getattr(function, "attr", "")))
