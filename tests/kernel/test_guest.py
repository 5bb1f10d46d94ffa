"""The guest has what the tests there rely on."""

import os

import pytest

from services.eni_manager.adapters.kernel import known
from services.eni_manager.core.preflight import NEEDS, kernel_lacks
from shared.model import Mode
from tests.kernel.needs import needs

pytestmark = [pytest.mark.system, needs(links=("ipvlan", "vlan", "dummy"))]


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_can_be_carried(mode: Mode) -> None:
    assert kernel_lacks(mode, known(NEEDS[mode])) == []


def test_it_is_a_guest() -> None:
    assert os.uname().nodename == "guest" or "TERWAY_GUEST" not in os.environ
