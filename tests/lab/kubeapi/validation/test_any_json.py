"""Whatever JSON comes in, the answer is an object or a refusal, never a crash; what was accepted stays acceptable."""

from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from compose.lab.kubeapi import patches
from compose.lab.kubeapi.api import Api
from compose.lab.kubeapi.kinds import Kinds
from compose.lab.kubeapi.status import Refusal
from compose.lab.kubeapi.store import Store
from compose.lab.kubeapi.validation.schemas import SCHEMAS, Fields, ListOf, MapOf, Shape

KINDS = [kind for kind in Kinds() if kind.collection in SCHEMAS]
MERGE = "application/merge-patch+json"

odd = st.sampled_from([None, True, 0, -1, 1 << 40, 1.5, "", "-", "x" * 300, [], {}, [None], {"": None}])
texts = st.sampled_from(
    [
        "a",
        "web",
        "A b",
        "TCP",
        "UDP",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.0.0.1",
        "fd00::1",
        "In",
        "Exists",
        "None",
        "80",
        "IPv4",
        "Ingress",
        "NodePort",
        "LoadBalancer",
        "ExternalName",
        "NoSchedule",
        "default",
        "AAAA",
        "http",
    ]
)


def values(shape: Shape, *, astray: bool) -> st.SearchStrategy[Any]:
    """Values of a shape; when `astray`, now and then of another."""
    match shape:
        case Fields(known):
            right: st.SearchStrategy[Any] = st.fixed_dictionaries(
                {}, optional={name: values(inner, astray=astray) for name, inner in known.items()}
            )
        case ListOf(items):
            right = st.lists(values(items, astray=astray), max_size=3)
        case MapOf(inner):
            right = st.dictionaries(texts, values(inner, astray=astray), max_size=3)
        case "bool":
            right = st.booleans()
        case "int32" | "int64":
            right = st.sampled_from([0, 1, 80, 90, 65536, -1])
        case "intstr":
            right = st.sampled_from([0, 80, "http", "80"])
        case _:
            right = texts
    return st.one_of(right, right, right, right, odd) if astray and not isinstance(shape, Fields) else right


SOUND: dict[str, Any] = {
    "Pod": {"spec": {"containers": [{"name": "main", "image": "tools:1"}]}},
    "Service": {"spec": {"ports": [{"port": 80}]}},
    "EndpointSlice": {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]},
}
"""What is required of a kind besides a name."""


@st.composite
def bodies(draw: st.DrawFn, index: int) -> Any:
    """A body for the kind: with everything required and one part more, or with anything at all."""
    kind, astray = KINDS[index], draw(st.booleans())
    known = dict(SCHEMAS[kind.collection].known)
    del known["apiVersion"], known["kind"]
    metadata = draw(values(known.pop("metadata"), astray=True)) if astray else {}
    body = draw(values(Fields(known), astray=astray))
    if not astray:
        body = patches.merge(body, SOUND.get(kind.kind, {}))
    metadata.pop("namespace", None)  # another is a matter of the path, not of the body
    return body | {"metadata": metadata | {"name": "a"}}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.integers(0, len(KINDS) - 1), st.data())
def test_no_json_crashes_the_server(index: int, data: st.DataObject) -> None:
    kind, body = KINDS[index], data.draw(bodies(index))
    api = Api(Store(), now=lambda: "2026-01-01T00:00:00Z", new_uid=lambda: "u", chance=lambda: 0.0)
    home = "default" if kind.namespaced else ""
    body["metadata"].pop("resourceVersion", None)  # a new object has none
    try:
        made = api.create(kind, home, body)
    except Refusal as refusal:
        event(f"refused {kind.kind}")
        assert refusal.code in (400, 422), refusal.message
        return
    event(f"accepted {kind.kind}")
    name = (home, made["metadata"]["name"])
    assert api.replace(kind, name, made) == made, "what the server says, it accepts, and sees no change"
    patch = data.draw(bodies(index))
    try:
        api.patch(kind, name, MERGE, patch)
    except Refusal as refusal:
        assert refusal.code in (400, 409, 422), refusal.message
