"""The selector language against Felix's own answers, and against a reading of its rules."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.selectors import Language, SelectorError, parse, unique_id


@pytest.mark.parametrize(
    ("name", "language"),
    [("selectors.json", Language.CURRENT), ("selectors-3.5.2.json", Language.FELIX_3_5)],
)
def test_felix_gave_the_same_answers(vectors: Path, name: str, language: Language) -> None:
    document = json.loads((vectors / name).read_text())
    wrong: list[tuple[str, object]] = []
    for case in document["cases"]:
        try:
            selector = parse(case["selector"], language)
        except SelectorError:
            if case["valid"]:
                wrong.append((case["selector"], "refused"))
            continue
        if not case["valid"]:
            wrong.append((case["selector"], f"accepted as {selector.text}"))
            continue
        got: tuple[str, ...] = (
            selector.text,
            selector.id,
            "".join("01"[selector.matches(labels.get)] for labels in document["labels"]),
            selector.prefixed("pcns.").text,
        )
        if got != (case["canonical"], case["id"], case["eval"], case["pcns"]):
            wrong.append((case["selector"], got))
    assert len(document["cases"]) == 630
    assert not wrong


def test_ids_that_the_original_s_tests_state() -> None:
    assert parse("").id == "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"
    assert parse("! (has(b)||! has(a))").id == "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q"
    assert unique_id("svc", "default/svc") == "svc:Jhwii46PCMT5NlhWsUqZmv7al8TeHFbNQMhoVg"


labels = st.sampled_from(["a", "b", "in", "k.io/z", "x-y"])
values = st.text(alphabet="abc'-", max_size=3)


def quoted(value: str) -> str:
    return f'"{value}"'


comparisons = st.builds(
    lambda label, operator, value: f"{label} {operator} {quoted(value)}",
    labels,
    st.sampled_from(["==", "!=", "contains", "starts with", "ends with"]),
    values,
)
members = st.builds(
    lambda label, operator, inside: f"{label} {operator} {{{', '.join(map(quoted, inside))}}}",
    labels,
    st.sampled_from(["in", "not in"]),
    st.lists(values, max_size=3),
)
atoms = st.one_of(comparisons, members, st.just("all()"), labels.map(lambda label: f"has({label})"))
selectors = st.recursive(
    atoms,
    lambda inner: st.one_of(
        inner.map(lambda text: f"!({text})"),
        st.builds(
            lambda operator, terms: f"({f' {operator} '.join(terms)})",
            st.sampled_from(["&&", "||"]),
            st.lists(inner, min_size=2, max_size=3),
        ),
    ),
    max_leaves=8,
)
items = st.dictionaries(labels, values, max_size=4)


@given(selectors, items)
def test_canonical_text_means_the_same_and_is_stable(source: str, item: dict[str, str]) -> None:
    selector = parse(source)
    again = parse(selector.text)
    assert again.matches(item.get) == selector.matches(item.get)
    # `!(!x)` prints `!!x`, which reads back as `x` (felix.md §0.2 point 12): stable from there on.
    assert parse(again.text).text == again.text


@given(selectors, items)
def test_the_outcome_depends_on_the_named_labels_only(source: str, item: dict[str, str]) -> None:
    selector = parse(source)
    seen = {label: value for label, value in item.items() if label in selector.labels()}
    assert selector.matches(seen.get) == selector.matches(item.get)


@given(selectors, items)
def test_negation_is_the_opposite(source: str, item: dict[str, str]) -> None:
    assert parse(f"!({source})").matches(item.get) != parse(source).matches(item.get)


@given(st.text(alphabet="ab in{}()'\"!=&|,\t\nhasl.", max_size=40), st.sampled_from(Language))
def test_anything_else_is_a_selector_error(source: str, language: Language) -> None:
    try:
        parse(source, language)
    except SelectorError as error:
        assert repr(source)[:10] in str(error)


def test_a_hostile_depth_is_refused_not_a_crash() -> None:
    with pytest.raises(SelectorError, match="parentheses"):
        parse("(" * 5000 + "has(a)" + ")" * 5000)
    assert parse("!" * 5001 + "has(a)").text == "!has(a)"
