"""What an operator reads in `kubectl describe node`: everything that lasts, once, and no blip."""

from services.ipam.core.node_news import LASTING_S, NodeNews
from shared.contracts.eni import Inventory
from shared.model import Mode


def inventory(**more: object) -> Inventory:
    return Inventory(epoch="e", generation=1, synced=True, mode=Mode.SHARED_VETH, capacity=9, enis=[], **more)  # type: ignore[arg-type]


def test_a_warning_is_said_at_once_and_once() -> None:
    news = NodeNews()
    assert news.heard(inventory(warnings=["b", "a"]), 0.0) == [("ResourceInvalid", "a"), ("ResourceInvalid", "b")]
    assert news.heard(inventory(warnings=["a", "b", "c"]), 1.0) == [("ResourceInvalid", "c")]
    assert news.heard(inventory(), 2.0) == []
    assert news.heard(inventory(warnings=["a"]), 3.0) == [("ResourceInvalid", "a")], "it is so again"


def test_what_may_pass_is_said_when_it_lasts() -> None:
    news = NodeNews()
    bad = inventory(blocked="vsw-1 has no free addresses", releasing=["DeleteNetworkInterface: throttled"])
    assert news.heard(bad, 0.0) == []
    assert news.heard(inventory(), 5.0) == []
    assert news.heard(bad, 6.0) == [], "it has begun anew"
    assert news.heard(bad, 5.9 + LASTING_S) == []
    assert news.heard(bad, 6.0 + LASTING_S) == [
        ("AllocResourceFailed", "vsw-1 has no free addresses"),
        ("DisposeResourceFailed", "DeleteNetworkInterface: throttled"),
    ]
    assert news.heard(bad, 1000.0) == []
