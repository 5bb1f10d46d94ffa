"""The crash points there are, read from the code, so that a new one is tested without being listed anywhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

SERVICE_OF = {"ipam": "ipam", "eni": "eni_manager", "gateway": "cni_shim", "policy": "policy"}
"""First part of a crash point's name -> the service that comes to it."""


def crash_points() -> dict[str, str]:
    """Name -> where it stands. Raises AssertionError for a name that is not a literal, or that stands twice."""
    found: dict[str, str] = {}
    for folder in ("services", "shared"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name, line in _calls(path):
                where = f"{path.relative_to(ROOT)}:{line}"
                assert name not in found, f"{where}: {name} stands at {found[name]} too"
                assert name.split(".")[0] in SERVICE_OF, f"{where}: no service comes to {name}"
                found[name] = where
    return found


def _calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crashpoint":
            [argument] = node.args
            assert isinstance(argument, ast.Constant) and isinstance(argument.value, str), f"{path}:{node.lineno}"
            yield argument.value, node.lineno
