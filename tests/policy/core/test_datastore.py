"""What is packed comes out as it went in, and as it was when it was copied."""

from hypothesis import given
from hypothesis import strategies as st

from services.policy.core import v1
from services.policy.core.datastore import Datastore, pod_at, values
from services.policy.core.graph import Graph
from services.policy.core.profiles import FELIX_3_24_5

texts = st.sampled_from(["a", "b"]) | st.text(max_size=8)
labels = st.dictionaries(texts, texts, max_size=3)
ports = st.lists(st.builds(v1.EndpointPort, texts, st.sampled_from(["tcp", "udp"]), st.integers(0, 65535)), max_size=2)
endpoints = st.builds(
    v1.WorkloadEndpoint,
    state=st.just("active"),
    name=texts,
    active_instance_id=texts,
    profile_ids=st.lists(texts, max_size=2).map(tuple),
    ipv4_nets=st.lists(st.sampled_from(["10.0.0.1/32", "10.0.0.2/32"]), max_size=2).map(tuple),
    ipv6_nets=st.lists(st.just("fd00::1/128"), max_size=1).map(tuple),
    ipv4_nat=st.lists(st.builds(v1.AddressMap, texts, texts), max_size=1).map(tuple),
    labels=labels,
    ports=ports.map(tuple),
    generate_name=texts,
)
policies = st.builds(
    v1.Policy,
    namespace=texts,
    order=st.none() | st.floats(allow_nan=False),
    selector=texts,
    inbound_rules=st.lists(st.builds(v1.Rule, action=texts, protocol=st.none() | texts | st.integers(0, 255))).map(
        tuple
    ),
)
pairs = st.tuples(
    st.builds(v1.WorkloadKey, texts, st.just("k8s"), st.sampled_from(["x/a", "x/b", "x/c"]), st.just("eth0")),
    st.none() | endpoints,
) | st.tuples(st.builds(v1.PolicyKey, texts), st.none() | policies)


def put(store: Datastore, key: v1.Key, value: v1.Value | None) -> None:
    """Without a graph that remembers anything."""
    if store.set(key, value):
        store.keep(key, value)


@given(st.lists(pairs, max_size=20))
def test_as_a_dictionary(changes: list[tuple[v1.Key, v1.Value | None]]) -> None:
    store, model = Datastore(), dict[v1.Key, v1.Value]()
    for key, value in changes:
        put(store, key, value)
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value
        assert dict(values(store.copy())) == model
    assert len(store) == len(model)
    assert store.hosts() == len({key.host for key in model if isinstance(key, v1.WorkloadKey)})
    assert store.count(v1.PolicyKey) == sum(isinstance(key, v1.PolicyKey) for key in model)
    for key in model:
        put(store, key, None)
    assert not store.copy()


def tell(graph: Graph, store: Datastore, key: v1.Key, value: v1.Value | None) -> None:
    """As Cluster does."""
    rest = store.set(key, value)
    graph.update(key, value, rest)
    if rest and key not in graph.items:
        store.keep(key, value)


@given(st.lists(pairs, max_size=20))
def test_what_the_graph_remembers_is_not_lost(changes: list[tuple[v1.Key, v1.Value | None]]) -> None:
    """Also of values that the graph refuses, and of those that a copy was made of before they changed."""
    graph, model = Graph("node1", FELIX_3_24_5), dict[v1.Key, v1.Value]()
    store = Datastore(graph.items)
    earlier = []
    for key, value in changes:
        tell(graph, store, key, value)
        assert len(store) == len({**model, key: value}) - (value is None)
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value
        earlier.append((store.copy(), dict(model)))
    for copy, then in earlier:
        assert dict(values(copy)) == then


def test_a_pod_by_its_address() -> None:
    graph = Graph("node1", FELIX_3_24_5)
    store = Datastore(graph.items)
    for number in range(10):
        key = v1.WorkloadKey("n", "k8s", f"x/web-{number}", "eth0")
        nets = (f"10.0.0.{number}/32",)
        value = v1.WorkloadEndpoint(state="active", name=f"cali{number}", ipv4_nets=nets, labels={"a": "b"})
        tell(graph, store, key, value)
    assert pod_at(store.copy(), "10.0.0.7") == "x/web-7"
    assert pod_at(store.copy(), "10.0.0.77") is None


def test_a_copy_stays_as_it_was() -> None:
    store, key = Datastore(), v1.TierKey("t")
    store.set(key, v1.Tier(order=1.0))
    copy = store.copy()
    store.set(key, v1.Tier(order=2.0))
    assert dict(values(copy)) == {key: v1.Tier(order=1.0)}
