"""Capabilities as containerd makes them of annotations."""

import pytest

from compose.lab.runtime_cni.capabilities import capabilities
from shared.errors import Invalid


def test_annotations_are_handed_over_as_they_are() -> None:
    assert capabilities({"a": "b"}) == {"io.kubernetes.cri.pod-annotations": {"a": "b"}}


@pytest.mark.parametrize(
    ("text", "bits"),
    [("10M", 10_000_000), ("1.5k", 1500), ("1Mi", 1 << 20), ("800", 800), ("1500m", 2), (".5G", 5 * 10**8)],
)
def test_the_standard_annotations_become_bandwidth(text: str, bits: int) -> None:
    given = capabilities({"kubernetes.io/ingress-bandwidth": text})
    assert given["bandwidth"] == {"IngressRate": bits, "IngressBurst": 2**32 - 1}
    given = capabilities({"kubernetes.io/egress-bandwidth": text, "kubernetes.io/ingress-bandwidth": "1"})
    assert given["bandwidth"] == {
        "IngressRate": 1,
        "IngressBurst": 2**32 - 1,
        "EgressRate": bits,
        "EgressBurst": 2**32 - 1,
    }


@pytest.mark.parametrize("text", ["", "fast", "10MB", "-1", "1 M"])
def test_what_is_no_quantity_is_named(text: str) -> None:
    with pytest.raises(Invalid, match="ingress-bandwidth"):
        capabilities({"kubernetes.io/ingress-bandwidth": text})
