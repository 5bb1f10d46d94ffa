"""The full path: manifests, API server, mirrors, calculation. Real HTTP and real faults; waits for what is told."""

import asyncio

import pytest

from compose.lab.kubeapi.api import DeleteOptions
from services.policy.adapters.kube import VERSIONS, wanted
from services.policy.core import messages, objects
from services.policy.core.profiles import FELIX_3_5_2, FELIX_3_24_5, FELIX_CURRENT
from tests.policy.adapters.world import (
    ADMIN,
    CALICO,
    CALICO_CLUSTER,
    CLUSTER,
    WEB_FROM_SHOP,
    Json,
    World,
    calico,
    crd,
    pod,
    until,
    world,
)


@pytest.mark.parametrize("compat", [FELIX_3_24_5, FELIX_3_5_2, FELIX_CURRENT], ids=lambda compat: compat.name)
async def test_the_same_as_all_at_once(compat: object) -> None:
    async with world(compat, *CLUSTER, *CALICO_CLUSTER) as it, it.calculating():  # type: ignore[arg-type]
        await it.agrees()
        told = [type(message) for message in it.said]
        assert told.count(messages.InSync) == 1
        assert told.index(messages.InSync) > told.index(messages.WorkloadEndpointUpdate)
        sets = it.online()["ipsets"].values()
        assert any("10.0.1.2/32" in found["members"] for found in sets), "members of other nodes are known"
        assert list(it.online()["weps"]) == ["k8s/shop/web-1/eth0"]

        await it.apply(pod("shop", "web-3", "10.0.0.9", app="web"), pod("shop", "front", "10.0.1.2", "node2", app="x"))
        await it.agrees()
        assert "k8s/shop/web-3/eth0" in it.online()["weps"]
        await it.delete(CLUSTER[2])
        await it.delete(WEB_FROM_SHOP)
        await it.agrees()
        assert "k8s/shop/web-1/eth0" not in it.online()["weps"]


async def test_in_sync_waits_for_the_first_list_of_every_kind() -> None:
    async with world(FELIX_3_24_5, *CLUSTER, *CALICO_CLUSTER) as it:
        it.blocked = {"/apis/crd.projectcalico.org/v1/networksets"}
        async with it.calculating():
            await until(lambda: len(it.live.cluster.store) > 10 and "networksets" in it.inputs.missing())
            assert not it.online()["in_sync"]
            assert not it.online()["weps"], "endpoints wait for everything that may concern them"
            it.blocked.clear()
            await it.agrees()
            assert it.inputs.missing() == ""


async def test_in_sync_waits_for_discovery() -> None:
    async with world(FELIX_3_24_5, *CLUSTER) as it:
        it.blocked = {"/apis/crd.projectcalico.org/v1"}
        async with it.calculating():
            await until(lambda: it.asked.count("/apis/crd.projectcalico.org/v1") > 2)
            assert not it.online()["in_sync"]
            assert it.inputs.missing().startswith("discovery: ")
            it.blocked.clear()
            await it.agrees()


async def test_only_what_exists_and_what_the_profile_reads_is_watched() -> None:
    async with world(FELIX_3_24_5, *CLUSTER) as it, it.calculating():
        await it.agrees()
        watched = {path for path in it.asked if path.startswith("/api") and path.count("/") > 2}
    lists = {path.rpartition("/")[2] for path in watched} - {"v1", "v1alpha1", "v1alpha2"}
    assert {"pods", "namespaces", "serviceaccounts", "endpointslices", "networkpolicies"} <= lists
    assert not lists & {*CALICO.values()} - {"networkpolicies"}
    assert not lists & {"nodes", "services", "secrets", "configmaps"}
    assert "/apis/crd.projectcalico.org/v1/networkpolicies" not in watched
    assert objects.EndpointSlice not in wanted(FELIX_3_5_2).values()
    for compat in (FELIX_3_5_2, FELIX_3_24_5, FELIX_CURRENT):
        assert {objects.Tier, objects.NetworkSet} < set(wanted(compat).values()), "who writes one hears what it does"
    assert {group for group, _ in wanted(FELIX_CURRENT)} == set(VERSIONS)


def admin(kind: str, version: str, name: str, action: str, **spec: object) -> Json:
    rule = {"name": "r", "action": action, "from": [{"namespaces": {"matchLabels": {"team": "ops"}}}]}
    subject = {"namespaces": {"matchLabels": {"team": "shop"}}}
    return {
        "apiVersion": f"policy.networking.k8s.io/{version}",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"subject": subject, "ingress": [rule], **spec},
    }


ADMINISTRATORS = (
    *(crd(kind) for kind in ADMIN),
    admin("AdminNetworkPolicy", "v1alpha1", "first", "Deny", priority=3),
    admin("BaselineAdminNetworkPolicy", "v1alpha1", "default", "Deny"),
    admin("ClusterNetworkPolicy", "v1alpha2", "next", "Accept", priority=4, tier="Admin"),
)


async def test_policies_of_administrators() -> None:
    async with world(FELIX_CURRENT, *CLUSTER, *ADMINISTRATORS) as it, it.calculating():
        await it.agrees()
        [endpoint] = it.online()["weps"].values()
        expected = ["adminnetworkpolicy", "kube-admin", "default", "baselineadminnetworkpolicy"]
        assert [tier["name"] for tier in endpoint["tiers"]] == expected
        await it.delete(ADMINISTRATORS[3])
        await it.agrees()


async def test_policies_that_the_profile_does_not_know_are_reported() -> None:
    async with world(FELIX_3_24_5, *CLUSTER, *ADMINISTRATORS) as it, it.calculating():
        await it.agrees()
        await until(lambda: len(it.events()) == 3)
        assert {event["involvedObject"]["kind"] for event in it.events()} == {*ADMIN}


async def test_a_slow_api_server_is_waited_for() -> None:
    async with world(FELIX_3_24_5, *CLUSTER) as it:
        it.kube.faults.delay_s = 0.1
        async with it.calculating():
            await it.agrees()
            it.kube.faults.delay_s = 0.0


async def test_a_kind_that_comes_later_and_goes_again() -> None:
    deny: Json = calico("GlobalNetworkPolicy", "no", {"order": 1, "ingress": [{"action": "Deny"}]})
    async with world(FELIX_3_24_5, *CLUSTER) as it, it.calculating():
        await it.agrees()
        assert not any("/no" in name for name in it.online()["policies"])
        await it.apply(crd("GlobalNetworkPolicy"), deny)
        await it.agrees()
        await until(lambda: "default/no" in it.online()["policies"])
        await it.delete(crd("GlobalNetworkPolicy"))
        await until(lambda: "default/no" not in it.online()["policies"])
        assert it.online()["weps"], "everything else stays"


async def test_a_look_that_fails_takes_nothing_away() -> None:
    async with world(FELIX_3_24_5, *CLUSTER, *CALICO_CLUSTER) as it, it.calculating():
        await it.agrees()
        looks = it.asked.count("/apis/crd.projectcalico.org/v1")
        it.blocked = {"/apis/crd.projectcalico.org/v1"}
        await until(lambda: it.asked.count("/apis/crd.projectcalico.org/v1") > looks + 4)
        assert it.inputs.state().trouble
        assert "default/no-bad" in it.online()["policies"]
        it.blocked.clear()
        await until(lambda: not it.inputs.state().trouble)
        await it.agrees()


async def change_unseen(it: World) -> None:
    """Something comes, something changes and something goes while nobody hears of it."""
    kinds, store = it.kube.api.kinds, it.kube.api
    pods = kinds.built_in("", "pods")
    fresh = pod("shop", "web-9", "10.0.0.99", app="web")
    made = store.create(pods, "shop", fresh)
    store.replace(pods, ("shop", "web-9"), {**made, "status": fresh["status"]}, part="status")
    moved = it.kube.store.get(("", "pods"), ("shop", "front"))
    assert moved is not None
    store.replace(pods, ("shop", "front"), {**moved, "metadata": {**moved["metadata"], "labels": {"app": "other"}}})
    policies = kinds.built_in("networking.k8s.io", "networkpolicies")
    store.delete(policies, ("shop", "web"), DeleteOptions())


async def test_the_api_server_goes_away_and_comes_back_with_its_past_forgotten() -> None:
    async with world(FELIX_3_24_5, *CLUSTER) as it, it.calculating():
        await it.agrees()
        before = it.online()
        it.kube.faults.go_away()
        await change_unseen(it)
        asked = len(it.asked)
        await until(lambda: len(it.asked) > asked + 5)
        assert it.online() == before, "the last that was known stays in force"
        it.kube.compact()
        it.kube.faults.come_back()
        await it.agrees()
        assert "k8s/shop/web-9/eth0" in it.online()["weps"]
        assert not any("knp.default.web" in name for name in it.online()["policies"])
        assert sum(isinstance(message, messages.InSync) for message in it.said) == 1


async def test_expired_watches_list_again() -> None:
    async with world(FELIX_3_24_5, *CLUSTER) as it, it.calculating():
        await it.agrees()
        lists = {state.resource: state.lists for state in it.inputs.state().watches}
        await change_unseen(it)
        it.kube.compact()
        it.kube.faults.cut_watches()
        await it.agrees()
        assert sum(state.lists for state in it.inputs.state().watches) >= sum(lists.values())


async def test_an_object_that_cannot_be_used_counts_as_deleted_and_is_reported_once() -> None:
    good = calico("GlobalNetworkPolicy", "g", {"order": 1, "ingress": [{"action": "Deny"}]})
    bad = {**good, "spec": {"selector": "a ==", "ingress": [{"action": "Deny"}]}}
    unreadable = {**good, "spec": {"order": "first"}}
    async with world(FELIX_3_24_5, *CLUSTER, crd("GlobalNetworkPolicy"), good) as it, it.calculating():
        await it.agrees()
        assert "default/g" in it.online()["policies"]
        for number, (body, field) in enumerate(((bad, "spec.selector"), (unreadable, "spec.order")), start=1):
            await it.apply(body)
            await until(lambda: "default/g" not in it.online()["policies"])
            await until(lambda number=number: len(it.events()) == number)  # type: ignore[misc]
            [problem] = [problem for found in it.live.cluster.problems.values() for problem in found]
            assert (problem.name, problem.field) == ("g", field)
            [event] = [event for event in it.events() if field in event["message"]]
            assert event["reason"] == "InvalidObject"
            assert event["involvedObject"]["kind"] == "GlobalNetworkPolicy"
            await it.apply(good)
            await until(lambda: "default/g" in it.online()["policies"])
            assert not it.live.cluster.problems
        it.kube.compact()
        it.kube.faults.cut_watches()
        await it.apply(pod("ops", "later", "10.0.0.77"))
        await it.agrees()
        assert len(it.events()) == 2, "a version is told once, also after a new list"


async def test_a_burst_is_few_flushes() -> None:
    async with world(FELIX_3_24_5, *CLUSTER) as it, it.calculating():
        await it.agrees()
        pods = [pod("shop", f"many-{i}", f"10.1.0.{i}", app="web") for i in range(100)]
        await asyncio.gather(*(it.apply(body) for body in pods))
        await it.agrees()
        assert len(it.online()["weps"]) == 101
