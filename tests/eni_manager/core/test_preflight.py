"""What is missing is named, in every mode."""

import msgspec
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
    known = Kinds(needs.links, needs.qdiscs, needs.every_classifier, needs.every_action)
    assert kernel_lacks(mode, known) == []
    each = len(needs.links) + len(needs.qdiscs) + len(needs.classifiers) + len(needs.actions)
    assert len(kernel_lacks(mode, Kinds())) == each + bool(needs.either)


def test_what_the_kernel_lacks_is_named() -> None:
    qdiscs = ("tbf", "clsact", "ingress")
    known = Kinds(links=("veth", "ifb"), qdiscs=qdiscs, classifiers=("u32", "bpf"), actions=("mirred",))
    assert kernel_lacks(Mode.SHARED_IPVLAN, known) == ["link kind ipvlan"]
    known = Kinds(
        links=("ipvlan", "ifb"), qdiscs=("tbf", "ingress"), classifiers=("u32",), actions=("mirred", "skbedit")
    )
    assert kernel_lacks(Mode.SHARED_IPVLAN, known) == [
        "tc qdisc clsact",
        "tc classifier bpf, or else tc action tunnel_key",
    ]


def test_where_bpf_classifiers_are_missing_three_actions_do_instead() -> None:
    known = Kinds(links=("ipvlan", "ifb"), qdiscs=("tbf", "clsact", "ingress"), classifiers=("u32",))
    assert len(kernel_lacks(Mode.SHARED_IPVLAN, known)) == 2
    actions = ("mirred", "tunnel_key", "skbedit")
    assert kernel_lacks(Mode.SHARED_IPVLAN, msgspec.structs.replace(known, actions=actions)) == []
    both = msgspec.structs.replace(known, classifiers=("u32", "bpf"), actions=("mirred",))
    assert kernel_lacks(Mode.SHARED_IPVLAN, both) == []


@pytest.mark.parametrize("mode", Mode)
def test_an_instance_without_enis_can_only_route(mode: Mode) -> None:
    small = InstanceType(name="ecs.small", enis=1, ipv4_per_eni=2)
    assert (instance_lacks(mode, small) == []) == (mode is Mode.VPC_ROUTE)
    assert all("ecs.small has no ENI besides the primary one" in sentence for sentence in instance_lacks(mode, small))
    assert instance_lacks(mode, InstanceType(name="ecs.large", enis=2, ipv4_per_eni=6)) == []
    barren = instance_lacks(Mode.SHARED_VETH, InstanceType(name="ecs.odd", enis=2, ipv4_per_eni=0))
    assert barren == ["instance type ecs.odd has no private address for pods on its ENIs"]
