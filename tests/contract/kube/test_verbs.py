"""kubernetes_asyncio's typed API: everything that the project reads survives its models, and refusals are its own."""

import json
from typing import Any

import pytest
from kubernetes_asyncio import client
from kubernetes_asyncio.client import ApiClient, ApiException

from tests.contract.kube.conftest import Cluster

MERGE = "application/merge-patch+json"


def container(**fields: Any) -> client.V1Container:
    return client.V1Container(name="main", image="tools:1", **fields)


def pod(name: str = "", **fields: Any) -> client.V1Pod:
    metadata = client.V1ObjectMeta(name=name or None, **fields.pop("metadata", {}))
    return client.V1Pod(metadata=metadata, spec=client.V1PodSpec(containers=[container()], **fields))


def status_of(error: ApiException) -> dict[str, Any]:
    """The Status that the server sent."""
    found: dict[str, Any] = json.loads(error.body)
    assert (found["kind"], found["code"]) == ("Status", error.status)
    return found


async def test_a_pod_s_life(theirs: ApiClient) -> None:
    core = client.CoreV1Api(theirs)
    made = await core.create_namespaced_pod("default", pod("a", node_name="n1", metadata={"labels": {"app": "web"}}))
    assert made.spec.restart_policy == "Always"
    assert made.metadata.creation_timestamp.tzinfo is not None
    patched = await core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"x": "y"}}}, _content_type=MERGE)
    assert patched.metadata.labels == {"app": "web", "x": "y"}
    now = {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}
    running = await core.patch_namespaced_pod_status("a", "default", {"status": now})
    assert (running.status.phase, running.status.pod_ip) == ("Running", "10.0.0.1")
    assert [entry.ip for entry in running.status.pod_ips] == ["10.0.0.1", "fd00::1"]
    operations = [{"op": "remove", "path": "/metadata/labels/x"}, {"op": "test", "path": "/kind", "value": "Pod"}]
    patched = await core.patch_namespaced_pod("a", "default", operations)
    assert patched.metadata.labels == {"app": "web"}
    patched.metadata.annotations = {"k8s.aliyun.com/x": "1"}
    replaced = await core.replace_namespaced_pod("a", "default", patched)
    assert replaced.metadata.resource_version != patched.metadata.resource_version
    with pytest.raises(ApiException) as stale:
        await core.replace_namespaced_pod("a", "default", patched)
    assert status_of(stale.value)["reason"] == "Conflict"
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name="a", namespace="default"))
    await core.create_namespaced_pod_eviction("a", "default", eviction)
    marked = await core.read_namespaced_pod("a", "default")
    assert marked.metadata.deletion_grace_period_seconds == 30
    await core.delete_namespaced_pod("a", "default", grace_period_seconds=0)
    with pytest.raises(ApiException) as gone:
        await core.read_namespaced_pod("a", "default")
    assert status_of(gone.value)["details"] == {"name": "a", "kind": "pods"}


async def test_generated_names_and_finalizers(theirs: ApiClient) -> None:
    core = client.CoreV1Api(theirs)
    made = await core.create_namespaced_pod(
        "default", pod(metadata={"generate_name": "web-", "finalizers": ["terway.io/x"]})
    )
    name = made.metadata.name
    assert name.startswith("web-") and len(name) == len("web-") + 5
    held = await core.delete_namespaced_pod(name, "default")
    assert held.metadata.deletion_timestamp is not None
    await core.patch_namespaced_pod(name, "default", {"metadata": {"finalizers": None}}, _content_type=MERGE)
    assert (await core.list_namespaced_pod("default")).items == []


async def test_pages_and_selectors(theirs: ApiClient) -> None:
    core = client.CoreV1Api(theirs)
    for number in range(7):
        labels = {"parity": "odd" if number % 2 else "even"}
        await core.create_namespaced_pod("default", pod(f"p{number}", node_name="n", metadata={"labels": labels}))
    seen, token = [], ""
    while True:
        page = await core.list_pod_for_all_namespaces(limit=3, _continue=token)
        seen.append([item.metadata.name for item in page.items])
        token = page.metadata._continue
        if not token:
            break
        assert page.metadata.remaining_item_count == 7 - sum(map(len, seen))
    assert seen == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6"]]
    odd = await core.list_namespaced_pod(
        "default", label_selector="parity notin (even)", field_selector="spec.nodeName=n"
    )
    assert [item.metadata.name for item in odd.items] == ["p1", "p3", "p5"]
    with pytest.raises(ApiException) as refused:
        await core.list_namespaced_pod("default", field_selector="spec.unheardOf=1")
    assert status_of(refused.value)["message"] == "field label not supported: spec.unheardOf"
    await core.delete_collection_namespaced_pod("default", label_selector="parity=even", grace_period_seconds=0)
    assert len((await core.list_namespaced_pod("default")).items) == 3


async def test_a_continue_token_expires(cluster: Cluster, theirs: ApiClient) -> None:
    core = client.CoreV1Api(theirs)
    for name in "abc":
        await core.create_namespaced_pod("default", pod(name))
    page = await core.list_namespaced_pod("default", limit=1)
    await core.create_namespaced_pod("default", pod("d"))
    cluster.kube.compact()
    with pytest.raises(ApiException) as gone:
        await core.list_namespaced_pod("default", limit=1, _continue=page.metadata._continue)
    assert status_of(gone.value)["reason"] == "Expired"


async def test_network_policies_keep_every_field(theirs: ApiClient) -> None:
    networking = client.NetworkingV1Api(theirs)
    spec = client.V1NetworkPolicySpec(
        pod_selector=client.V1LabelSelector(match_labels={"app": "web"}),
        policy_types=["Ingress", "Egress"],
        ingress=[
            client.V1NetworkPolicyIngressRule(
                ports=[client.V1NetworkPolicyPort(port=80, end_port=90), client.V1NetworkPolicyPort(port="http")],
                _from=[
                    client.V1NetworkPolicyPeer(
                        namespace_selector=client.V1LabelSelector(
                            match_expressions=[
                                client.V1LabelSelectorRequirement(key="tier", operator="In", values=["a", "b"])
                            ]
                        ),
                        pod_selector=client.V1LabelSelector(),
                    ),
                    client.V1NetworkPolicyPeer(ip_block=client.V1IPBlock(cidr="10.0.0.0/8", _except=["10.1.0.0/16"])),
                ],
            )
        ],
        egress=[client.V1NetworkPolicyEgressRule()],
    )
    policy = client.V1NetworkPolicy(metadata=client.V1ObjectMeta(name="p"), spec=spec)
    made = await networking.create_namespaced_network_policy("default", policy)
    for port in spec.ingress[0].ports:
        port.protocol = "TCP"  # the one thing that the server fills in
    assert made.spec.to_dict() == spec.to_dict()
    assert (await networking.read_namespaced_network_policy("p", "default")).spec.to_dict() == spec.to_dict()


async def test_what_is_refused_names_the_fields(theirs: ApiClient) -> None:
    networking = client.NetworkingV1Api(theirs)
    port = client.V1NetworkPolicyPort(port=90, end_port=80, protocol="ICMP")
    spec = client.V1NetworkPolicySpec(
        pod_selector=client.V1LabelSelector(), ingress=[client.V1NetworkPolicyIngressRule(ports=[port])]
    )
    policy = client.V1NetworkPolicy(metadata=client.V1ObjectMeta(name="p"), spec=spec)
    with pytest.raises(ApiException) as refused:
        await networking.create_namespaced_network_policy("default", policy)
    said = status_of(refused.value)
    assert said["reason"] == "Invalid"
    assert [cause["field"] for cause in said["details"]["causes"]] == [
        "spec.ingress[0].ports[0].protocol",
        "spec.ingress[0].ports[0].endPort",
    ]


async def test_a_dry_run_leaves_nothing(theirs: ApiClient) -> None:
    core = client.CoreV1Api(theirs)
    made = await core.create_namespaced_pod("default", pod("a"), dry_run="All")
    assert made.metadata.uid
    assert (await core.list_namespaced_pod("default")).items == []


async def test_the_other_kinds(theirs: ApiClient) -> None:
    core = client.CoreV1Api(theirs)
    space = await core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="web")))
    assert (space.status.phase, space.spec.finalizers) == ("Active", ["kubernetes"])
    assert (await core.read_namespaced_service_account("default", "web")).metadata.uid
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name="s"),
        spec=client.V1ServiceSpec(ports=[client.V1ServicePort(port=80, target_port="http")], selector={"app": "web"}),
    )
    given = await core.create_namespaced_service("web", service)
    assert given.spec.cluster_ips == [given.spec.cluster_ip]
    assert (given.spec.type, given.spec.ports[0].target_port) == ("ClusterIP", "http")
    endpoints = client.V1EndpointSlice(
        metadata=client.V1ObjectMeta(name="s-1", labels={"kubernetes.io/service-name": "s"}),
        address_type="IPv4",
        endpoints=[client.V1Endpoint(addresses=["10.0.0.1"], conditions=client.V1EndpointConditions(ready=True))],
        ports=[client.DiscoveryV1EndpointPort(port=80)],
    )
    sliced = await client.DiscoveryV1Api(theirs).create_namespaced_endpoint_slice("web", endpoints)
    assert (sliced.ports[0].name, sliced.ports[0].protocol, sliced.endpoints[0].addresses) == ("", "TCP", ["10.0.0.1"])
    node = client.V1Node(metadata=client.V1ObjectMeta(name="n"), spec=client.V1NodeSpec(provider_id="cn.i-1"))
    assert (await core.create_node(node)).spec.provider_id == "cn.i-1"
    about = client.V1ObjectReference(kind="Pod", namespace="web", name="p")
    event = client.CoreV1Event(
        metadata=client.V1ObjectMeta(generate_name="p-"), involved_object=about, reason="Why", type="Warning"
    )
    assert (await core.create_namespaced_event("web", event)).involved_object.name == "p"
    await core.delete_namespace("web")
    assert [found.metadata.name for found in (await core.list_namespace()).items if found.metadata.name == "web"] == []


async def test_any_custom_kind(theirs: ApiClient) -> None:
    definition = client.V1CustomResourceDefinition(
        metadata=client.V1ObjectMeta(name="podnetworkings.network.alibabacloud.com"),
        spec=client.V1CustomResourceDefinitionSpec(
            group="network.alibabacloud.com",
            scope="Cluster",
            names=client.V1CustomResourceDefinitionNames(plural="podnetworkings", kind="PodNetworking"),
            versions=[
                client.V1CustomResourceDefinitionVersion(
                    name="v1beta1",
                    served=True,
                    storage=True,
                    schema=client.V1CustomResourceValidation(
                        open_apiv3_schema=client.V1JSONSchemaProps(
                            type="object", x_kubernetes_preserve_unknown_fields=True
                        )
                    ),
                    subresources=client.V1CustomResourceSubresources(status={}),
                )
            ],
        ),
    )
    extensions = client.ApiextensionsV1Api(theirs)
    made = await extensions.create_custom_resource_definition(definition)
    assert {condition.type: condition.status for condition in made.status.conditions}["Established"] == "True"
    custom, place = client.CustomObjectsApi(theirs), ("network.alibabacloud.com", "v1beta1", "podnetworkings")
    body = {
        "apiVersion": "network.alibabacloud.com/v1beta1",
        "kind": "PodNetworking",
        "metadata": {"name": "a"},
        "spec": {"vSwitchOptions": ["vsw-1"]},
    }
    await custom.create_cluster_custom_object(*place, body)
    status = {"status": {"status": "Ready"}}
    await custom.patch_cluster_custom_object_status(*place, "a", status, _content_type=MERGE)
    [found] = (await custom.list_cluster_custom_object(*place))["items"]
    assert (found["spec"], found["status"]) == (body["spec"], status["status"])


async def test_discovery(theirs: ApiClient) -> None:
    core = await client.CoreV1Api(theirs).get_api_resources()
    pods = next(resource for resource in core.resources if resource.name == "pods")
    assert (pods.kind, pods.namespaced, pods.short_names) == ("Pod", True, ["po"])
    groups = await client.ApisApi(theirs).get_api_versions()
    assert "networking.k8s.io" in {group.name for group in groups.groups}
    assert (await client.VersionApi(theirs).get_code()).major == "1"
