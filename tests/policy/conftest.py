"""What policy's tests share: the original's own answers, which are data outside this repository."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of conformance data beside the checkout, or where TERWAY_VECTORS says; CI must have it."""
    beside = Path(__file__).parents[2].parent / "shared" / "vectors"
    folder = Path(os.environ.get("TERWAY_VECTORS", beside))
    if not folder.is_dir():
        assert not os.environ.get("CI"), f"CI judges against the conformance data, and {folder} is not there"
        pytest.skip(f"no conformance data at {folder}; set TERWAY_VECTORS to its folder")
    return folder
