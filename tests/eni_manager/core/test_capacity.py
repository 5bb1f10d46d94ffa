"""The numbers of terway.md §7: one function, table tests (R21)."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from services.ctl import main
from services.eni_manager.core.capacity import Caps, PodMode, capacity, generation, shortcomings
from services.eni_manager.core.model import InstanceType
from services.eni_manager.ctl import from_catalogue
from services.ipam.core.ranges import size
from shared.eni_conf import EniConf
from shared.instance_types import TYPES
from shared.model import Cidr


@pytest.mark.parametrize(
    ("name", "shared", "exclusive"),
    [
        ("ecs.n4.small", 2, 1),
        ("ecs.n4.8xlarge", 6, 1),
        ("ecs.t6-c1m2.large", 2, 1),
        ("ecs.sn2ne.large", 6, 1),
        ("ecs.g5.xlarge", 20, 2),
        ("ecs.c5.16xlarge", 140, 7),
        ("ecs.g6.large", 6, 1),
        ("ecs.g6.xlarge", 20, 2),
        ("ecs.g6.2xlarge", 30, 3),
        ("ecs.r6.3xlarge", 50, 5),
        ("ecs.g6.13xlarge", 120, 6),
        ("ecs.g6.26xlarge", 280, 14),
        ("ecs.g6e.large", 12, 2),
        ("ecs.g6e.2xlarge", 45, 3),
        ("ecs.g6e.13xlarge", 180, 6),
        ("ecs.g7.3xlarge", 105, 7),
        ("ecs.g7.4xlarge", 210, 7),
        ("ecs.g7.32xlarge", 420, 14),
        ("ecs.gn6i-c24g1.24xlarge", 70, 7),
        ("ecs.ebmg6.26xlarge", 310, 31),
        ("ecs.ebmre7p.32xlarge", 465, 31),
    ],
)
def test_shared_and_exclusive(name: str, shared: int, exclusive: int) -> None:
    kind = from_catalogue(name)
    assert kind is not None
    assert capacity(kind, PodMode.SHARED).pods == shared
    assert capacity(kind, PodMode.EXCLUSIVE).pods == exclusive


BIG = InstanceType("ecs.ebmre7p.32xlarge", 32, 15, 1, eni_total=110, trunk=True, eri=4)
SMALL = InstanceType("ecs.g6.xlarge", 3, 10, 10, eni_total=3, eri=1)


@pytest.mark.parametrize(
    ("kind", "mode", "pods"),
    [
        (BIG, PodMode.TRUNK, 78),
        (BIG, PodMode.PREFER_TRUNK, 108),
        (SMALL, PodMode.TRUNK, 0),
        (BIG, PodMode.SHARED_DUAL, 0),  # V is not P
        (SMALL, PodMode.SHARED_DUAL, 20),
        (BIG, PodMode.EXCLUSIVE_DUAL, 31),
        (InstanceType("ecs.n4.small", 2, 2), PodMode.EXCLUSIVE_DUAL, 0),
        (InstanceType("ecs.g7ne.xlarge", 4, 15, eni_total=24), PodMode.PREFIX, 672),  # A, not T
        (SMALL, PodMode.PREFIX_IPV6, 65_536),
        (InstanceType("ecs.x.1", 2, 10, eri=2), PodMode.ERDMA, 0),
        (SMALL, PodMode.ERDMA, 10),
        (BIG, PodMode.ERDMA, 30),
        (InstanceType("ecs.x.1", 8, 10, eri=1), PodMode.ERDMA, 10),
    ],
)
def test_other_modes(kind: InstanceType, mode: PodMode, pods: int) -> None:
    assert capacity(kind, mode).pods == pods


def test_the_configuration_caps_it() -> None:
    kind = InstanceType("ecs.g7.4xlarge", 8, 30)
    assert capacity(kind, PodMode.EXCLUSIVE, Caps(ratio=0.5)).pods == 3
    assert capacity(kind, PodMode.EXCLUSIVE, Caps(ratio=0.5, shift=2)).pods == 5
    assert capacity(kind, PodMode.SHARED, Caps(max_eni=2)).pods == 60
    assert capacity(kind, PodMode.SHARED, Caps(shift=9)).pods == 210, "no more than the machine takes"
    assert capacity(kind, PodMode.EXCLUSIVE, Caps(shift=-20)).pods == 0


@given(st.integers(1, 40), st.floats(0.1, 1.0), st.integers(-3, 0), st.integers(0, 9))
def test_the_service_counts_alike(adapters: int, ratio: float, shift: int, most: int) -> None:
    conf = EniConf(eni_cap_ratio=ratio, eni_cap_shift=shift, max_eni=most)
    assert conf.max_enis(adapters) == Caps(ratio, shift, most).enis(adapters)


def test_every_type_of_the_catalogue_has_a_generation_and_a_capacity() -> None:
    for name in TYPES:
        kind = from_catalogue(name)
        assert kind is not None
        assert generation(name) is not None
        for mode in PodMode:
            found = capacity(kind, mode)
            assert found.pods >= 0
            assert found.formula


@pytest.mark.parametrize(("name", "expected"), [("ecs.gn6i-c4g1.xlarge", 6), ("ecs.sn2ne.large", 2), ("ecs.x", None)])
def test_generation(name: str, expected: int | None) -> None:
    assert generation(name) == expected


def test_the_recommendation_says_why() -> None:
    def said(name: str) -> str:
        kind = from_catalogue(name)
        assert kind is not None
        return "; ".join(shortcomings(kind))

    assert said("ecs.g6.2xlarge") == ""
    assert said("ecs.c5.16xlarge") == ""
    assert "generation 2; 5 or later" in said("ecs.sn2ne.8xlarge")
    assert "has 4 vCPUs; 8 or more" in said("ecs.g6.xlarge")
    assert "must be stopped to attach" in said("ecs.n4.large")
    assert "6 pods in mode shared; a node should host more than 11" in said("ecs.g6.large")
    few = shortcomings(InstanceType("ecs.g6.2xlarge", 4, 10), PodMode.EXCLUSIVE)
    assert few == ["ecs.g6.2xlarge can host 3 pods in mode exclusive; a node should host more than 6"]
    assert "vCPU" not in "; ".join(shortcomings(InstanceType("ecs.g6.new", 8, 20))), "unknown is not few"


def terwayctl(*argv: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["capacity", *argv])
    return done.exit_code, done.output


def test_the_command() -> None:
    code, text = terwayctl("ecs.g6.2xlarge")
    assert code == 0
    assert "shared" in text
    assert "30 pods  3 ENIs beside the primary one × 10 addresses" in text
    code, text = terwayctl("g6.large", "--mode", "shared", "--json")
    document = json.loads(text)
    assert code == 0
    assert [(one["mode"], one["pods"]) for one in document["capacity"]] == [("shared", 6)]
    assert any("2 vCPUs" in warning for warning in document["warnings"])


def test_the_command_and_a_type_that_is_not_known() -> None:
    code, text = terwayctl("ecs.g6.2xlrge")
    assert code == 1
    assert "did you mean ecs.g6.2xlarge" in text
    code, text = terwayctl("ecs.g9.huge", "--enis", "9", "--addresses", "30", "--mode", "shared", "--max-eni", "4")
    assert code == 0
    assert "120 pods" in text


@pytest.mark.parametrize(("mask", "pods"), [(24, 253), (26, 61), (30, 1), (31, 0), (32, 0), (16, 4094)])
def test_a_pod_range_holds_what_ipam_takes_from_it(mask: int, pods: int) -> None:
    assert capacity(SMALL, PodMode.VPC_ROUTE, Caps(pod_mask=mask)).pods == pods == size(Cidr(f"10.0.0.0/{mask}"))
