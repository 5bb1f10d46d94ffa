"""What is missing is named, in every mode."""

import pytest

from services.eni_manager.core.model import InstanceType
from services.eni_manager.core.preflight import NEEDS, OPEN_MODES, Kinds, closed_gate, instance_lacks, kernel_lacks
from shared.model import Mode


def test_every_mode_says_what_it_needs_of_the_kernel() -> None:
    assert NEEDS.keys() == set(Mode)


def test_ipvlan_and_exclusive_enis_are_off_unless_listed() -> None:
    assert {mode for mode in Mode if closed_gate(mode, OPEN_MODES)} == {Mode.SHARED_IPVLAN, Mode.EXCLUSIVE_ENI}
    said = closed_gate(Mode.EXCLUSIVE_ENI, OPEN_MODES)
    assert said.startswith("exclusive-eni is not among allowed_modes (shared-veth, vpc-route);")
    assert closed_gate(Mode.EXCLUSIVE_ENI, (Mode.EXCLUSIVE_ENI,)) == ""
    assert "(none)" in closed_gate(Mode.SHARED_VETH, ())


@pytest.mark.parametrize("mode", Mode)
def test_a_kernel_that_has_everything_lacks_nothing_and_an_empty_one_all(mode: Mode) -> None:
    needs = NEEDS[mode]
    assert kernel_lacks(mode, needs) == []
    assert len(kernel_lacks(mode, Kinds())) == len(needs.links) + len(needs.qdiscs) + bool(needs.classifiers)


def test_what_the_kernel_lacks_is_named() -> None:
    known = Kinds(links=("veth",), qdiscs=("tbf", "clsact"), classifiers=("u32",))
    assert kernel_lacks(Mode.SHARED_IPVLAN, known) == ["link kind ipvlan"]
    known = Kinds(links=("ipvlan",), qdiscs=("tbf",))
    assert kernel_lacks(Mode.SHARED_IPVLAN, known) == ["tc qdisc clsact", "tc classifier bpf or u32"]


@pytest.mark.parametrize("mode", Mode)
def test_an_instance_without_enis_can_only_route(mode: Mode) -> None:
    small = InstanceType(name="ecs.small", enis=1, ipv4_per_eni=2)
    assert (instance_lacks(mode, small) == []) == (mode is Mode.VPC_ROUTE)
    assert all("ecs.small has no ENI besides the primary one" in sentence for sentence in instance_lacks(mode, small))
    assert instance_lacks(mode, InstanceType(name="ecs.large", enis=2, ipv4_per_eni=6)) == []
    barren = instance_lacks(Mode.SHARED_VETH, InstanceType(name="ecs.odd", enis=2, ipv4_per_eni=0))
    assert barren == ["instance type ecs.odd has no private address for pods on its ENIs"]
