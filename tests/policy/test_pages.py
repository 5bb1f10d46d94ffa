"""What is asked of a running calculation, without HTTP: who is meant, and how much may be asked at once."""

import pytest

from services.policy.core import v1
from services.policy.core.datastore import Datastore
from services.policy.core.matrix import Probe
from services.policy.core.problems import Invalid
from services.policy.core.profiles import FELIX_3_24_5
from services.policy.pages import MAX_CELLS, explanation, matrix_of

TCP_80 = Probe(80, "tcp")
ALLOW = v1.Rule(action="allow")


def store_of(pods: int) -> Datastore:
    store = Datastore()
    store.set(v1.ProfileRulesKey("kns.x"), v1.ProfileRules((ALLOW,), (ALLOW,)))
    for number in range(pods):
        value = v1.WorkloadEndpoint(
            state="active",
            name=f"cali{number}",
            profile_ids=("kns.x",),
            ipv4_nets=(f"10.0.{number >> 8}.{number & 255}/32",),
            labels={"projectcalico.org/namespace": "x"},
        )
        store.keep(v1.WorkloadKey(f"node{number % 3}", "k8s", f"{'xy'[number % 2]}/p{number}", "eth0"), value)
    return store


def test_a_matrix_that_would_take_minutes_is_refused_with_the_way_out() -> None:
    packed = store_of(2 * int(MAX_CELLS**0.5)).copy()
    with pytest.raises(Invalid, match="namespace="):
        matrix_of(packed, FELIX_3_24_5, [TCP_80], frozenset())
    with pytest.raises(Invalid, match="cells"):
        matrix_of(packed, FELIX_3_24_5, [TCP_80, Probe(81, "tcp")], frozenset("x"))


def test_a_matrix_is_of_some_namespaces() -> None:
    cells = matrix_of(store_of(6).copy(), FELIX_3_24_5, [TCP_80], frozenset("y"))["80/TCP"]
    assert cells == {one: {"y/p1": "allow", "y/p3": "allow", "y/p5": "allow"} for one in ("y/p1", "y/p3", "y/p5")}


def test_an_address_is_the_pod_that_has_it() -> None:
    packed = store_of(4).copy()
    answer = explanation(packed, FELIX_3_24_5, "10.0.0.1", "10.0.0.2", TCP_80)
    assert (answer.source, answer.destination) == ("y/p1", "x/p2")
    assert [side.direction for side in answer.sides] == ["egress", "ingress"]
    stranger = explanation(packed, FELIX_3_24_5, "192.0.2.1", "x/p2", TCP_80)
    assert [side.direction for side in stranger.sides] == ["ingress"]
    with pytest.raises(Invalid, match="x/none"):
        explanation(packed, FELIX_3_24_5, "x/none", "x/p2", TCP_80)
