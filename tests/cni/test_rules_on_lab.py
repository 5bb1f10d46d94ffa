"""The checklist once more, with the real services of a lab's node behind the gateway."""

from collections.abc import Iterator

import pytest

from tests.cni.lab_site import LabSite
from tests.cni.site import Sandbox
from tests.cni.test_rules import *  # noqa: F403

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab() -> Iterator[LabSite]:
    site = LabSite()
    try:
        site.open()
        yield site
    finally:
        site.close()


@pytest.fixture
def site(lab: LabSite) -> Iterator[LabSite]:
    yield lab
    assert (lab.held(), lab.wired()) == (set(), set()), "the test left something behind"


@pytest.fixture
def sandbox(site: LabSite) -> Iterator[Sandbox]:
    with site.sandbox() as sandbox:
        yield sandbox
