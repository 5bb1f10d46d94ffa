"""The verbs, as Kubernetes' API conventions describe them."""

import base64
import copy
from itertools import count
from typing import Any

import pytest

from compose.lab.kubeapi.api import Api, DeleteOptions, ListOptions
from compose.lab.kubeapi.kinds import Kind
from compose.lab.kubeapi.status import Refusal
from compose.lab.kubeapi.store import Store

DEFAULT = "default"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
NOW = DeleteOptions(grace_s=0)
CONTAINERS = [{"name": "main", "image": "tools:1"}]


class Cluster:
    """An Api with short words for what tests do."""

    def __init__(self) -> None:
        self.now = "2026-01-01T00:00:00Z"
        uids = count(1)
        self.store = Store(first_version=1)
        self.api = Api(self.store, now=lambda: self.now, new_uid=lambda: f"u{next(uids)}", chance=lambda: 0.0)

    def kind(self, plural: str, group: str = "", version: str = "v1") -> Kind:
        found = self.api.kinds.find(group, version, plural)
        assert found is not None
        return found

    def create(self, plural: str, name: str, *, namespace: str = "default", group: str = "", **fields: Any) -> Any:
        metadata = {"name": name, **fields.pop("metadata", {})}
        if plural == "pods":
            fields["spec"] = {"containers": CONTAINERS} | fields.get("spec", {})
        return self.api.create(self.kind(plural, group), namespace, {"metadata": metadata, **fields})


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def refused(code: int, reason: str) -> Any:
    return pytest.raises(Refusal, check=lambda error: (error.code, error.reason) == (code, reason))


# ---- create


def test_a_created_object_has_what_the_server_gives(cluster: Cluster) -> None:
    pod = cluster.create("pods", "a", status={"phase": "Running"}, apiVersion="v1", kind="Pod")
    assert pod["apiVersion"] == "v1" and pod["kind"] == "Pod"
    meta = pod["metadata"]
    assert (meta["namespace"], meta["creationTimestamp"], meta["generation"]) == (DEFAULT, cluster.now, 1)
    assert meta["uid"].startswith("u")
    assert meta["resourceVersion"] == str(cluster.store.version)
    assert pod["status"]["phase"] == "Pending", "a status is not the creator's to say"
    assert pod["spec"]["restartPolicy"] == "Always"
    assert cluster.api.get(cluster.kind("pods"), (DEFAULT, "a")) == pod


def test_the_body_that_was_sent_stays_as_it_was(cluster: Cluster) -> None:
    body = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "main", "image": "x", "ports": [{}]}]}}
    sent = copy.deepcopy(body)
    with refused(422, "Invalid"):
        cluster.api.create(cluster.kind("pods"), DEFAULT, body)
    assert body == sent


def test_generated_names(cluster: Cluster) -> None:
    made = cluster.api.create(
        cluster.kind("pods"),
        DEFAULT,
        {"metadata": {"generateName": "web-" + "x" * 80}, "spec": {"containers": CONTAINERS}},
    )
    assert made["metadata"]["name"] == ("web-" + "x" * 80)[:58] + "bbbbb"


def test_a_generated_name_that_is_taken_is_generated_again(cluster: Cluster) -> None:
    chances = iter([0.0] * 5 + [0.0] * 5 + [0.5] * 5)
    cluster.api = Api(Store(), now=lambda: cluster.now, new_uid=lambda: "u", chance=lambda: next(chances, 0.0))
    body = {"metadata": {"generateName": "a-"}, "spec": {"containers": CONTAINERS}}
    names = [cluster.api.create(cluster.kind("pods"), DEFAULT, body)["metadata"]["name"] for _ in range(2)]
    assert names == ["a-bbbbb", "a-rrrrr"]
    with refused(409, "AlreadyExists"):
        cluster.api.create(cluster.kind("pods"), DEFAULT, body)


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ({"metadata": {}}, 422, "Invalid"),
        ({}, 422, "Invalid"),
        ({"metadata": {"name": "Upper"}}, 422, "Invalid"),
        ({"metadata": {"name": "a/b"}}, 422, "Invalid"),
        ({"metadata": {"name": "a" * 254}}, 422, "Invalid"),
        ({"metadata": {"name": "a", "labels": {"x": "not valid"}}}, 422, "Invalid"),
        ({"metadata": {"name": "a", "labels": {"x": 1}}}, 400, "BadRequest"),
        ({"metadata": {"name": "a", "labels": {"/x": "1"}}}, 422, "Invalid"),
        ({"metadata": {"name": "a", "namespace": "other"}}, 400, "BadRequest"),
        ({"kind": "Node", "metadata": {"name": "a"}}, 400, "BadRequest"),
        ({"apiVersion": "v2", "metadata": {"name": "a"}}, 400, "BadRequest"),
        ([], 400, "BadRequest"),
        ({"metadata": 7}, 400, "BadRequest"),
    ],
)
def test_what_cannot_be_created(cluster: Cluster, body: Any, code: int, reason: str) -> None:
    version = cluster.store.version
    with refused(code, reason):
        cluster.api.create(cluster.kind("pods"), DEFAULT, body)
    assert cluster.store.version == version


def test_names_are_taken_once(cluster: Cluster) -> None:
    cluster.create("pods", "a")
    with refused(409, "AlreadyExists") as error:
        cluster.create("pods", "a")
    assert error.value.body() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'pods "a" already exists',
        "reason": "AlreadyExists",
        "details": {"name": "a", "kind": "pods"},
        "code": 409,
    }


def test_a_namespace_must_be_there(cluster: Cluster) -> None:
    with refused(404, "NotFound") as error:
        cluster.create("pods", "a", namespace="nowhere")
    assert error.value.message == 'namespaces "nowhere" not found'


def test_a_new_namespace_has_a_name_label_and_an_account(cluster: Cluster) -> None:
    made = cluster.create("namespaces", "web", metadata={"labels": {"a": "b"}})
    assert made["metadata"]["labels"] == {"a": "b", "kubernetes.io/metadata.name": "web"}
    assert made["status"] == {"phase": "Active"}
    assert cluster.api.get(cluster.kind("serviceaccounts"), ("web", "default"))


def test_network_policies_get_the_types_that_they_mean(cluster: Cluster) -> None:
    def types(**spec: Any) -> Any:
        name = f"p{cluster.store.version}"
        return cluster.create("networkpolicies", name, group="networking.k8s.io", spec=spec)["spec"]["policyTypes"]

    assert types() == ["Ingress"]
    assert types(egress=[{}]) == ["Ingress", "Egress"]
    assert types(policyTypes=["Egress"]) == ["Egress"]


# ---- replace and patch


def test_a_stale_write_conflicts(cluster: Cluster) -> None:
    old = cluster.create("configmaps", "c", data={"a": "1"})
    kind, name = cluster.kind("configmaps"), (DEFAULT, "c")
    cluster.api.replace(kind, name, old | {"data": {"a": "2"}})
    with refused(409, "Conflict") as error:
        cluster.api.replace(kind, name, old | {"data": {"a": "3"}})
    assert "the object has been modified" in error.value.message
    with refused(409, "Conflict"):
        cluster.api.patch(kind, name, MERGE, {"metadata": {"resourceVersion": "1"}, "data": {}})
    with refused(409, "Conflict"):
        cluster.api.replace(kind, name, {"metadata": {"uid": "other"}})
    blind = cluster.api.replace(kind, name, {"metadata": {"name": "c"}, "data": {"a": "4"}})
    assert blind["metadata"]["uid"] == old["metadata"]["uid"], "without a version, the last word counts"


def test_what_a_writer_cannot_change(cluster: Cluster) -> None:
    old = cluster.create("pods", "a")
    patch = {
        "metadata": {
            "uid": None,
            "creationTimestamp": "2000-01-01T00:00:00Z",
            "deletionTimestamp": "x",
            "generation": 9,
        },
        "status": {"phase": "Running"},
    }
    assert cluster.api.patch(cluster.kind("pods"), (DEFAULT, "a"), MERGE, patch) == old
    with refused(400, "BadRequest"):
        cluster.api.patch(cluster.kind("pods"), (DEFAULT, "a"), MERGE, {"metadata": {"name": "b"}})


def test_status_is_written_by_itself(cluster: Cluster) -> None:
    cluster.create("pods", "a", spec={"priority": 1})
    patch = {
        "spec": {"priority": 2},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
        "metadata": {"labels": {"a": "b"}},
    }
    pod = cluster.api.patch(cluster.kind("pods"), (DEFAULT, "a"), STRATEGIC, patch, part="status")
    assert pod["status"]["podIP"] == "10.0.0.1"
    assert pod["spec"]["priority"] == 1
    assert pod["metadata"]["generation"] == 1


def test_generation_counts_changes_of_spec(cluster: Cluster) -> None:
    kind, name = cluster.kind("pods"), (DEFAULT, "a")
    cluster.create("pods", "a", spec={"activeDeadlineSeconds": 100})
    assert cluster.api.patch(kind, name, MERGE, {"metadata": {"labels": {"a": "b"}}})["metadata"]["generation"] == 1
    assert cluster.api.patch(kind, name, MERGE, {"spec": {"activeDeadlineSeconds": 50}})["metadata"]["generation"] == 2


def test_a_write_that_changes_nothing_takes_no_version(cluster: Cluster) -> None:
    old = cluster.create("configmaps", "c", data={"a": "1"})
    same = cluster.api.patch(cluster.kind("configmaps"), (DEFAULT, "c"), MERGE, {"data": {"a": "1"}})
    assert same == old
    assert old["metadata"]["resourceVersion"] == str(cluster.store.version)


@pytest.mark.parametrize(
    ("content_type", "patch", "code"),
    [
        ("application/json", {}, 415),
        ("application/json-patch+json", {"op": "add"}, 400),
        (MERGE, [], 400),
        (STRATEGIC, {"metadata": {"labels": {"x": "bad value"}}}, 422),
    ],
)
def test_bad_patches(cluster: Cluster, content_type: str, patch: Any, code: int) -> None:
    cluster.create("configmaps", "c")
    with pytest.raises(Refusal, check=lambda error: error.code == code):
        cluster.api.patch(cluster.kind("configmaps"), (DEFAULT, "c"), content_type, patch)


def test_a_patch_into_another_shape(cluster: Cluster) -> None:
    cluster.create("pods", "a")
    kind, name = cluster.kind("pods"), (DEFAULT, "a")
    for content_type in (MERGE, STRATEGIC):
        with refused(422, "Invalid") as error:
            cluster.api.patch(kind, name, content_type, {"spec": {"hostNetwork": "yes"}})
        assert error.value.details["causes"][0]["field"] == "patch"
        assert "cannot unmarshal string into Go struct field .spec.hostNetwork of type bool" in error.value.message
    with refused(400, "BadRequest"):
        cluster.api.replace(kind, name, {"metadata": {"name": "a"}, "spec": {"hostNetwork": "yes"}})


def test_versions_are_the_server_s_to_give(cluster: Cluster) -> None:
    with refused(500, "InternalError") as error:
        cluster.create("configmaps", "c", metadata={"resourceVersion": "7"})
    assert "resourceVersion should not be set on objects to be created" in error.value.message


# ---- delete


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
def test_some_namespaces_stay(cluster: Cluster, name: str) -> None:
    with refused(403, "Forbidden"):
        cluster.api.delete(cluster.kind("namespaces"), ("", name), NOW)


def test_what_runs_nowhere_is_deleted_at_once(cluster: Cluster) -> None:
    cluster.create("pods", "a")
    cluster.create("configmaps", "c")
    assert cluster.api.delete(cluster.kind("pods"), (DEFAULT, "a"), DeleteOptions())["kind"] == "Pod"
    status = cluster.api.delete(cluster.kind("configmaps"), (DEFAULT, "c"), DeleteOptions())
    assert (status["kind"], status["status"], status["details"]["kind"]) == ("Status", "Success", "configmaps")
    with refused(404, "NotFound"):
        cluster.api.delete(cluster.kind("pods"), (DEFAULT, "a"), DeleteOptions())


def test_a_running_pod_is_marked_and_ends_when_its_kubelet_says_so(cluster: Cluster) -> None:
    kind, name = cluster.kind("pods"), (DEFAULT, "a")
    cluster.create("pods", "a", spec={"nodeName": "n", "terminationGracePeriodSeconds": 20})
    marked = cluster.api.delete(kind, name, DeleteOptions())
    assert marked["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:20Z"
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 20
    version = cluster.store.version
    cluster.api.delete(kind, name, DeleteOptions())
    assert cluster.store.version == version, "asking again changes nothing"
    cluster.api.delete(kind, name, NOW)
    assert cluster.store.get(kind.collection, name) is None


def test_a_finished_pod_needs_no_grace(cluster: Cluster) -> None:
    kind, name = cluster.kind("pods"), (DEFAULT, "a")
    cluster.create("pods", "a", spec={"nodeName": "n"})
    cluster.api.patch(kind, name, MERGE, {"status": {"phase": "Succeeded"}}, part="status")
    cluster.api.delete(kind, name, DeleteOptions())
    assert cluster.store.get(kind.collection, name) is None


def test_finalizers_hold_an_object(cluster: Cluster) -> None:
    kind, name = cluster.kind("configmaps"), (DEFAULT, "c")
    cluster.create("configmaps", "c", metadata={"finalizers": ["x/y"]})
    assert cluster.api.delete(kind, name, DeleteOptions())["metadata"]["deletionTimestamp"] == cluster.now
    assert cluster.store.get(kind.collection, name)
    cluster.api.patch(kind, name, MERGE, {"metadata": {"finalizers": None}})
    assert cluster.store.get(kind.collection, name) is None


def test_preconditions(cluster: Cluster) -> None:
    made = cluster.create("configmaps", "c")
    kind, name = cluster.kind("configmaps"), (DEFAULT, "c")
    for wrong in (DeleteOptions(uid="x"), DeleteOptions(resource_version="1")):
        with refused(409, "Conflict"):
            cluster.api.delete(kind, name, wrong)
    right = DeleteOptions(uid=made["metadata"]["uid"], resource_version=made["metadata"]["resourceVersion"])
    cluster.api.delete(kind, name, right)


def test_a_namespace_takes_its_content_with_it(cluster: Cluster) -> None:
    cluster.create("namespaces", "web")
    cluster.create("pods", "a", namespace="web", spec={"nodeName": "n"})
    held = cluster.create("configmaps", "c", namespace="web", metadata={"finalizers": ["x/y"]})
    ending = cluster.api.delete(cluster.kind("namespaces"), ("", "web"), DeleteOptions())
    assert ending["status"] == {"phase": "Terminating"}
    assert not [name for name in cluster.store.all(("", "pods")) if name[0] == "web"]
    with refused(403, "Forbidden"):
        cluster.create("pods", "b", namespace="web")
    assert cluster.api.get(cluster.kind("namespaces"), ("", "web")), "a finalizer inside holds it up"
    patch = {"metadata": {"finalizers": [], "uid": held["metadata"]["uid"]}}
    cluster.api.patch(cluster.kind("configmaps"), ("web", "c"), MERGE, patch)
    with refused(404, "NotFound"):
        cluster.api.get(cluster.kind("namespaces"), ("", "web"))


def test_deleting_a_collection(cluster: Cluster) -> None:
    for name, app in (("a", "web"), ("b", "web"), ("c", "db")):
        cluster.create("pods", name, metadata={"labels": {"app": app}})
    cluster.api.delete_collection(cluster.kind("pods"), ListOptions(namespace=DEFAULT, labels="app=web"), NOW)
    assert [*cluster.store.all(("", "pods"))] == [(DEFAULT, "c")]


# ---- list


def names(listed: Any) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


def test_pages_show_one_moment(cluster: Cluster) -> None:
    kind = cluster.kind("pods")
    for name in "abcde":
        cluster.create("pods", name)
    first = cluster.api.list(kind, ListOptions(limit=2))
    assert names(first) == ["a", "b"]
    assert first["metadata"]["remainingItemCount"] == 3
    cluster.create("pods", "b2")
    cluster.api.delete(kind, (DEFAULT, "d"), NOW)
    second = cluster.api.list(kind, ListOptions(limit=2, continue_=first["metadata"]["continue"]))
    assert names(second) == ["c", "d"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    third = cluster.api.list(kind, ListOptions(limit=2, continue_=second["metadata"]["continue"]))
    assert names(third) == ["e"]
    assert "continue" not in third["metadata"]
    assert names(cluster.api.list(kind, ListOptions())) == ["a", "b", "b2", "c", "e"]


def test_a_page_that_was_compacted_away_is_gone(cluster: Cluster) -> None:
    for name in "abc":
        cluster.create("pods", name)
    token = cluster.api.list(cluster.kind("pods"), ListOptions(limit=2))["metadata"]["continue"]
    cluster.create("pods", "d")
    cluster.store.compact()
    with refused(410, "Expired") as error:
        cluster.api.list(cluster.kind("pods"), ListOptions(limit=2, continue_=token))
    assert "must start a new list" in error.value.message


@pytest.mark.parametrize("token", ["!", "e30=", base64.b64encode(b"\xff").decode(), "x"])
def test_a_made_up_continue_token_is_refused(cluster: Cluster, token: str) -> None:
    with refused(400, "BadRequest"):
        cluster.api.list(cluster.kind("pods"), ListOptions(continue_=token))


def test_lists_at_a_version(cluster: Cluster) -> None:
    kind = cluster.kind("pods")
    at = cluster.create("pods", "a")["metadata"]["resourceVersion"]
    cluster.create("pods", "b")
    assert names(cluster.api.list(kind, ListOptions(resource_version=at))) == ["a", "b"], "not older than"
    assert names(cluster.api.list(kind, ListOptions(resource_version=at, exact=True))) == ["a"]
    assert names(cluster.api.list(kind, ListOptions(resource_version="0"))) == ["a", "b"]
    with refused(504, "Timeout"):
        cluster.api.list(kind, ListOptions(resource_version=str(cluster.store.version + 1)))
    with refused(400, "BadRequest"):
        cluster.api.list(kind, ListOptions(resource_version="new"))
    cluster.store.compact()
    with refused(410, "Expired"):
        cluster.api.list(kind, ListOptions(resource_version=at, exact=True))


def test_lists_are_confined_to_their_namespace_and_selectors(cluster: Cluster) -> None:
    cluster.create("pods", "a", spec={"nodeName": "n1"})
    cluster.create("pods", "b", namespace="kube-system", spec={"nodeName": "n1"})
    cluster.create("pods", "c", spec={"nodeName": "n2"})
    options = ListOptions(namespace=DEFAULT, fields="spec.nodeName=n1")
    listed = cluster.api.list(cluster.kind("pods"), options)
    assert names(listed) == ["a"]
    assert (listed["kind"], listed["apiVersion"]) == ("PodList", "v1")


# ---- scheduling


def test_binding(cluster: Cluster) -> None:
    cluster.create("pods", "a")
    cluster.api.bind((DEFAULT, "a"), "n1")
    pod = cluster.api.get(cluster.kind("pods"), (DEFAULT, "a"))
    assert pod["spec"]["nodeName"] == "n1"
    assert [c["type"] for c in pod["status"]["conditions"]] == ["PodScheduled"]
    with refused(409, "Conflict"):
        cluster.api.bind((DEFAULT, "a"), "n2")


# ---- custom kinds

CRD: dict[str, Any] = {
    "metadata": {"name": "gnus.crd.projectcalico.org"},
    "spec": {
        "group": "crd.projectcalico.org",
        "scope": "Cluster",
        "names": {"plural": "gnus", "kind": "Gnu", "shortNames": ["g"]},
        "versions": [
            {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}},
            {"name": "v2", "served": True, "storage": False},
            {"name": "v3", "served": False, "storage": False},
        ],
    },
}


def test_a_definition_makes_kinds_and_its_end_takes_them_away(cluster: Cluster) -> None:
    crds = cluster.kind("customresourcedefinitions", "apiextensions.k8s.io")
    made = cluster.api.create(crds, "", CRD)
    assert {c["type"]: c["status"] for c in made["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    group = "crd.projectcalico.org"
    gnu = cluster.create("gnus", "a", group=group, spec={"order": 1})
    assert gnu["apiVersion"] == "crd.projectcalico.org/v1"
    v2 = cluster.kind("gnus", group, "v2")
    assert cluster.api.get(v2, ("", "a")) == gnu | {"apiVersion": "crd.projectcalico.org/v2"}
    assert cluster.api.kinds.find(group, "v3", "gnus") is None
    with refused(415, "UnsupportedMediaType"):
        cluster.api.patch(v2, ("", "a"), STRATEGIC, {})
    patched = cluster.api.patch(v2, ("", "a"), MERGE, {"spec": {"order": 2}})
    assert (patched["apiVersion"], patched["spec"]) == ("crd.projectcalico.org/v2", {"order": 2})

    cluster.api.delete(crds, ("", "gnus.crd.projectcalico.org"), DeleteOptions())
    assert cluster.api.kinds.find(group, "v1", "gnus") is None
    assert not cluster.store.all((group, "gnus"))


def test_a_definition_that_changes_changes_what_is_served(cluster: Cluster) -> None:
    crds = cluster.kind("customresourcedefinitions", "apiextensions.k8s.io")
    name = ("", "gnus.crd.projectcalico.org")
    cluster.api.create(crds, "", CRD)
    cluster.create("gnus", "a", group="crd.projectcalico.org")
    for served in (["v3"], [], ["v1"]):
        versions = [version | {"served": version["name"] in served} for version in CRD["spec"]["versions"]]
        cluster.api.patch(crds, name, MERGE, {"spec": {"versions": versions}})
        assert [kind.version for kind in cluster.api.kinds if kind.plural == "gnus"] == served
    assert cluster.api.get(cluster.kind("gnus", "crd.projectcalico.org"), ("", "a")), "objects outlast their serving"


def test_incomplete_definitions_are_refused(cluster: Cluster) -> None:
    crds = cluster.kind("customresourcedefinitions", "apiextensions.k8s.io")
    empty: dict[str, Any] = {}
    for spec in (empty, CRD["spec"] | {"scope": ""}, CRD["spec"] | {"group": "other.org"}):
        with refused(422, "Invalid"):
            cluster.api.create(crds, "", {"metadata": CRD["metadata"], "spec": spec})
