"""What `kubectl get` prints."""

from typing import Any

import pytest

from compose.lab.kubeapi.kinds import Kinds
from compose.lab.kubeapi.tables import age, table

NOW = "2026-01-09T00:00:00Z"


def row(plural: str, obj: dict[str, Any], *, group: str = "") -> dict[str, Any]:
    kind = Kinds().built_in(group, plural)
    obj["metadata"] = {"name": "a", "creationTimestamp": "2026-01-08T23:59:00Z", **obj.get("metadata", {})}
    made = table(kind, {"metadata": {"resourceVersion": "7"}, "items": [obj]}, now=NOW, include="Metadata")
    assert made["metadata"] == {"resourceVersion": "7"}
    return dict(zip((c["name"] for c in made["columnDefinitions"]), made["rows"][0]["cells"], strict=True))


@pytest.mark.parametrize(
    ("since", "text"),
    [
        ("2026-01-08T23:59:59Z", "1s"),
        ("2026-01-08T23:58:01Z", "119s"),
        ("2026-01-08T23:58:00Z", "2m"),
        ("2026-01-08T23:54:30Z", "5m30s"),
        ("2026-01-08T22:00:00Z", "120m"),
        ("2026-01-08T20:30:00Z", "3h30m"),
        ("2026-01-08T20:00:00Z", "4h"),
        ("2026-01-07T04:00:00Z", "44h"),
        ("2026-01-06T20:00:00Z", "2d4h"),
        ("2026-01-05T00:00:00Z", "4d"),
        ("2025-12-30T23:00:00Z", "9d"),
        ("2027-01-01T00:00:00Z", "0s"),
        (None, "<unknown>"),
    ],
)
def test_ages(since: str | None, text: str) -> None:
    assert age(since, NOW) == text


def test_pods() -> None:
    running = {
        "spec": {"nodeName": "n1", "containers": [{}, {}]},
        "status": {
            "phase": "Running",
            "podIP": "192.168.0.7",
            "containerStatuses": [{"ready": True, "restartCount": 2}, {"ready": False, "restartCount": 1}],
        },
    }
    assert row("pods", running) == {
        "Name": "a",
        "Ready": "1/2",
        "Status": "Running",
        "Restarts": "3",
        "Age": "60s",
        "IP": "192.168.0.7",
        "Node": "n1",
    }
    fresh = row("pods", {"spec": {}, "status": {"phase": "Pending"}})
    assert (fresh["Ready"], fresh["Status"], fresh["IP"], fresh["Node"]) == ("0/0", "Pending", "<none>", "<none>")
    assert row("pods", {"metadata": {"deletionTimestamp": NOW}})["Status"] == "Terminating"
    assert row("pods", {})["Status"] == "Unknown"


def test_nodes() -> None:
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "192.168.0.1"}],
    }
    labels = {"node-role.kubernetes.io/worker": "", "x": "y"}
    shown = row("nodes", {"metadata": {"labels": labels}, "spec": {"unschedulable": True}, "status": status})
    assert (shown["Status"], shown["Roles"], shown["Internal-IP"]) == (
        "Ready,SchedulingDisabled", "worker", "192.168.0.1",
    )  # fmt: skip
    unknown = row("nodes", {})
    assert (unknown["Status"], unknown["Roles"], unknown["Internal-IP"]) == ("Unknown", "<none>", "<none>")


def test_the_others() -> None:
    service = row(
        "services", {"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}], "selector": {"b": "c"}}}
    )
    assert (service["Type"], service["Port(s)"], service["Selector"]) == ("ClusterIP", "80/TCP,53/UDP", "b=c")
    policy = row("networkpolicies", {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}, group="networking.k8s.io")
    assert policy["Pod-Selector"] == "a=b"
    event = row("events", {"involvedObject": {"kind": "Pod", "name": "x"}, "lastTimestamp": "2026-01-08T23:59:58Z"})
    assert (event["Object"], event["Last Seen"], event["Reason"]) == ("pod/x", "2s", "<none>")
    assert row("configmaps", {}) == {"Name": "a", "Age": "60s"}


@pytest.mark.parametrize(
    ("include", "carried"),
    [
        ("None", None),
        ("Metadata", {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}}),
        ("Object", {"metadata": {"name": "a"}, "data": {}}),
    ],
)
def test_what_a_row_carries(include: str, carried: Any) -> None:
    obj = {"metadata": {"name": "a"}, "data": {}}
    made = table(Kinds().built_in("", "configmaps"), obj, now=NOW, include=include)
    assert made["rows"][0]["object"] == carried
