"""One gateway for all tests of the checklist; its neighbours forget everything between two tests."""

from collections.abc import Iterator

import pytest

from tests.cni.fakes import FakeSite
from tests.cni.site import Sandbox


@pytest.fixture(scope="session")
def running_site() -> Iterator[FakeSite]:
    site = FakeSite()
    site.open()
    yield site
    site.close()


@pytest.fixture
def site(running_site: FakeSite) -> Iterator[FakeSite]:
    running_site.neighbours.reset()
    yield running_site
    left = running_site.held(), running_site.wired(), running_site.neighbours.attached, running_site.notes()
    assert left == (set(), set(), set(), []), "the test left something behind"


@pytest.fixture
def sandbox(site: FakeSite) -> Iterator[Sandbox]:
    with site.sandbox() as sandbox:
        yield sandbox
