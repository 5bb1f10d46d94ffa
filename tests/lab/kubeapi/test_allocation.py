"""What the API server itself gives to Services."""

from itertools import count
from typing import Any

import pytest

from compose.lab.kubeapi.api import Api
from compose.lab.kubeapi.status import Refusal
from compose.lab.kubeapi.store import Store

MERGE = "application/merge-patch+json"


class Services:
    def __init__(self) -> None:
        self.names = count(1)
        self.api = Api(Store(), now=lambda: "2026-01-01T00:00:00Z", new_uid=lambda: "u", chance=lambda: 0.0)
        self.kind = self.api.kinds.built_in("", "services")

    def create(self, **spec: Any) -> Any:
        body = {"metadata": {"name": f"s{next(self.names)}"}, "spec": {"ports": [{"port": 80}]} | spec}
        return self.api.create(self.kind, "default", body)["spec"]

    def patch(self, name: str, **spec: Any) -> Any:
        return self.api.patch(self.kind, ("default", name), MERGE, {"spec": spec})["spec"]


@pytest.fixture
def services() -> Services:
    return Services()


def test_every_service_has_an_address_of_its_own(services: Services) -> None:
    first, second = services.create(), services.create()
    assert first["clusterIP"] != second["clusterIP"]
    assert first["clusterIPs"] == [first["clusterIP"]]
    assert services.create(clusterIP="172.21.3.3")["clusterIPs"] == ["172.21.3.3"]
    assert services.create(clusterIP="None")["clusterIPs"] == ["None"]
    assert "clusterIP" not in services.create(type="ExternalName", externalName="a.example")


def test_what_cannot_be_had(services: Services) -> None:
    taken = services.create()["clusterIP"]
    with pytest.raises(Refusal, match=f"failed to allocate IP {taken}: provided IP is already allocated"):
        services.create(clusterIP=taken)
    with pytest.raises(Refusal, match=r"\(10.0.0.1\) is not in the valid range") as refused:
        services.create(clusterIP="10.0.0.1")
    assert refused.value.details["causes"][0]["field"] == "spec.clusterIPs"


def test_an_address_stays(services: Services) -> None:
    given = services.create()["clusterIP"]
    assert services.patch("s1", clusterIP=None, clusterIPs=None)["clusterIP"] == given
    with pytest.raises(Refusal, match="may not change once set"):
        services.patch("s1", clusterIP="172.21.9.9")
    assert services.patch("s1", selector={"a": "b"})["clusterIP"] == given


def test_node_ports(services: Services) -> None:
    first = services.create(type="NodePort")["ports"][0]["nodePort"]
    assert services.create(type="LoadBalancer")["ports"][0]["nodePort"] not in (None, first)
    with pytest.raises(Refusal, match="provided port is already allocated"):
        services.create(type="NodePort", ports=[{"port": 1, "nodePort": first}])
    with pytest.raises(Refusal, match="The range of valid ports is 30000-32767"):
        services.create(type="NodePort", ports=[{"port": 1, "nodePort": 80}])
    kept = services.patch("s1", ports=[{"port": 80, "targetPort": 8080}])["ports"]
    assert kept[0]["nodePort"] == first
