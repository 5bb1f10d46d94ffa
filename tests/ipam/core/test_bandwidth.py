import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ipam.core.bandwidth import EGRESS, INGRESS, parse_rate, read
from shared.contracts.ipam import Bandwidth
from shared.errors import Invalid


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1m", 1_048_576),
        ("1M", 1_048_576),
        ("1MB", 1_048_576),
        ("1MiB", 1_048_576),
        (" 10 mb ", 10_485_760),
        ("1.5m", 1_572_864),
        (".5k", 512),
        ("2.k", 2048),
        ("100B", 100),
        ("1g", 1 << 30),
        ("2TiB", 2 << 40),
    ],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "10", "0m", "-1m", "0.1b", "m", "1e3m", "1,5m", "1mbit", "1p", "1bib", "٣m", "1m\n2m", "9" * 400 + "t"]
)
def test_what_is_not_a_rate(text: str) -> None:
    with pytest.raises(Invalid, match="is not a rate"):
        parse_rate(text)


@given(st.text(max_size=20))
def test_any_text_is_a_rate_or_invalid(text: str) -> None:
    try:
        assert parse_rate(text) >= 1
    except Invalid:
        pass


def test_annotations_give_limits_and_the_capability_wins() -> None:
    pod = {INGRESS: "1m", EGRESS: "2m", "other": "x"}
    assert read(pod, None).bandwidth == Bandwidth(ingress=1 << 20, egress=2 << 20)
    assert read(pod, Bandwidth(egress=7)).bandwidth == Bandwidth(ingress=1 << 20, egress=7)
    assert read({}, None).bandwidth == Bandwidth()


def test_an_annotation_that_cannot_be_read_sets_no_limit() -> None:
    limits = read({INGRESS: "1", EGRESS: "2m"}, None)
    assert limits.bandwidth == Bandwidth(egress=2 << 20)
    assert limits.problems == (
        "annotation k8s.aliyun.com/ingress-bandwidth: '1' is not a rate: "
        "a number and a unit (B, K, M, G or T) are expected, such as 10M",
    )
    assert read({INGRESS: "1"}, Bandwidth(ingress=5)).problems == ()
