"""What policy's tests share: the original's own answers, which are data outside this repository."""

import os
from pathlib import Path

import pytest

FILES = (
    "cyclonus_vectors.json",
    *(f"{kind}-{version}.json.gz" for kind in ("felix", "edge") for version in ("3.24.5", "3.5.2")),
    "selectors.json",
    "selectors-3.5.2.json",
)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of conformance data beside the checkout, or where TERWAY_VECTORS says; CI must have it."""
    beside = Path(__file__).parents[2].parent / "shared" / "vectors"
    folder = Path(os.environ.get("TERWAY_VECTORS", beside))
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        assert not os.environ.get("CI"), f"CI judges against the conformance data, and {folder} has no {missing}"
        pytest.skip(f"no conformance data at {folder} ({missing[0]} is missing); set TERWAY_VECTORS to its folder")
    return folder
