"""A pytest plugin: writes which of the collected tests are skipped for what this kernel lacks, one node id a line.

`pytest --collect-only -p tests.kernel.lacking`; `TERWAY_LACKING` is the file.
"""

import os
from pathlib import Path

import pytest

from tests.kernel.needs import LACKS


def pytest_collection_finish(session: pytest.Session) -> None:
    """After everything that deselects."""
    Path(os.environ["TERWAY_LACKING"]).write_text("".join(f"{item.nodeid}\n" for item in session.items if lacks(item)))


def lacks(item: pytest.Item) -> bool:
    """Will the test be skipped because of the kernel?"""
    marks = item.iter_markers("skipif")
    return any(mark.args[0] is True and str(mark.kwargs.get("reason")).startswith(LACKS) for mark in marks)
