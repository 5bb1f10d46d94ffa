import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ipam.core.bandwidth import (
    EGRESS,
    INGRESS,
    STANDARD_EGRESS,
    STANDARD_INGRESS,
    parse_quantity,
    parse_rate,
    read,
)
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


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10M", 1_250_000),
        ("1k", 125),
        ("1000", 125),
        ("1.5Gi", 3 * (1 << 30) // 16),
        ("1e6", 125_000),
        ("2500000m", 312),
        ("1P", 125 * 10**12),
        (".5M", 62_500),
    ],
)
def test_quantities_of_bits(text: str, rate: int) -> None:
    assert parse_quantity(text) == rate


@pytest.mark.parametrize(
    "text", ["", "999", "2P", "10MB", "10 M", "-1M", "1K", "M", "1e", "1e999", "0x1M", "1Mi1", "٣M", "nan", "1E"]
)
def test_what_is_not_a_quantity_for_a_bandwidth(text: str) -> None:
    with pytest.raises(Invalid, match="bits per second"):
        parse_quantity(text)


@given(st.text(alphabet="0123456789.eEkMGTPim+-", max_size=12))
def test_any_text_is_a_quantity_or_invalid(text: str) -> None:
    try:
        assert 125 <= parse_quantity(text) <= 125 * 10**12
    except Invalid:
        pass


def test_the_standard_annotation_wins_over_ours_and_the_capability_over_both() -> None:
    pod = {INGRESS: "1m", STANDARD_INGRESS: "8M", STANDARD_EGRESS: "16M"}
    assert read(pod, None).bandwidth == Bandwidth(1_000_000, 2_000_000)
    assert read(pod, Bandwidth(ingress=7)).bandwidth == Bandwidth(7, 2_000_000)


def test_what_no_annotation_explains_is_stated() -> None:
    assert read({}, Bandwidth(7, 8)).stated == Bandwidth(7, 8)
    assert read({STANDARD_EGRESS: "16M"}, Bandwidth(7, 2_000_000)).stated == Bandwidth(ingress=7)
    assert read({EGRESS: "1m"}, Bandwidth(egress=8)).stated == Bandwidth(egress=8)
    assert read({EGRESS: "1m"}, None).stated == Bandwidth()


def test_an_annotation_that_turns_unreadable_leaves_what_is_in_force() -> None:
    limits = read({STANDARD_INGRESS: "fast"}, None, otherwise=Bandwidth(ingress=5, egress=6))
    assert limits.bandwidth == Bandwidth(ingress=5)
    assert limits.problems == (
        "annotation kubernetes.io/ingress-bandwidth: 'fast' is not a quantity of bits per second, such as 10M",
    )
