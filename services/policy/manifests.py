"""Files of manifests: YAML and JSON, many documents to a file, lists in a document, folders of files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

SUFFIXES = (".yaml", ".yml", ".json")


class Document(msgspec.Struct, frozen=True):
    """One object of a document, whatever it is; `trouble` says why the rest of the file cannot be read."""

    file: str
    number: int
    raw: Any = None
    trouble: str = ""


def documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Files, and folders with all of their manifests."""
    for path in paths:
        for file in _files(path):
            yield from _in_file(file)


def _in_file(file: Path) -> Iterator[Document]:
    number = 0
    try:
        # JSON is YAML too. A document may be a list of objects.
        for number, document in enumerate(yaml.safe_load_all(file.read_text()), 1):
            for raw in _listed(document):
                yield Document(str(file), number, raw)
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        yield Document(str(file), number + 1, trouble=f"cannot be read: {' '.join(str(error).split())}")


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    else:
        yield path


def _listed(document: Any) -> Iterator[Any]:
    if document is None:
        return
    if isinstance(document, list):
        yield from document
    elif isinstance(document, dict) and str(document.get("kind", "")).endswith("List"):
        items = document.get("items")
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and "kind" not in item:  # a typed list need not repeat it
                kind = str(document["kind"]).removesuffix("List")
                item = {"apiVersion": document.get("apiVersion"), "kind": kind, **item}
            yield item
    else:
        yield document
