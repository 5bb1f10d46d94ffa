"""Did the guest run what this machine had to skip? From the ids of those tests and the guest's junit."""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree


def ran(junit: Path) -> dict[tuple[str, str], str]:
    """(class name, test name) -> how it ended: passed, failed, error or skipped."""
    found = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        ends = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[case.get("classname", ""), case.get("name", "")] = min(ends, default="passed")
    return found


def junit_name(node_id: str) -> tuple[str, str]:
    """`tests/kernel/test_x.py::test_y[1]` as junit has it."""
    path, _, test = node_id.partition("::")
    *classes, name = test.split("::") if "[" not in test else [test]
    return ".".join([path.removesuffix(".py").replace("/", "."), *classes]), name


def shortcomings(skipped: Iterable[str], junits: Iterable[Path]) -> list[str]:
    """A sentence for each test that was skipped here and did not run in a guest."""
    there = {name: how for junit in junits for name, how in ran(junit).items()}
    return [
        f"{node_id} was skipped here and {how} in the guest"
        for node_id in skipped
        if (how := there.get(junit_name(node_id), "did not run")) in ("did not run", "skipped")
    ]
