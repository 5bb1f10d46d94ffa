"""What a selector demands of single labels to match at all: `a == "x" && has(b)` demands of `a` that it is "x", and of
`b` that it is there. This is what selectors are indexed by (labels.py).
"""

from collections.abc import Iterable

from services.policy.core.selectors import Compare, Has, Joined, Member, Node, Not

Demand = frozenset[str] | None
"""The values a label must have one of; None: any, as long as the label is there."""


def demands(node: Node) -> dict[str, Demand]:
    """What must hold of single labels for the term to be true; never more than that."""
    match node:
        case Has(label=label):
            return {label: None}
        case Compare(label=label, operator="==", value=value):
            return {label: frozenset((value,))}
        case Compare(label=label, operator=operator) if operator != "!=":
            return {label: None}
        case Member(label=label, values=values, negated=False):
            return {label: values}
        case Not(term=Compare(label=label, operator="!=", value=value)):
            return {label: frozenset((value,))}
        case Not(term=Member(label=label, values=values, negated=True)):
            return {label: values}
        case Joined(operator="&&", terms=terms):
            return _all_of(map(demands, terms))
        case Joined(operator="||", terms=terms):
            return _any_of([demands(term) for term in terms])
    return {}


def _all_of(terms: Iterable[dict[str, Demand]]) -> dict[str, Demand]:
    joined: dict[str, Demand] = {}
    for term in terms:
        for label, wanted in term.items():
            known = joined.get(label)
            joined[label] = wanted if known is None else known if wanted is None else known & wanted
    return joined


def _any_of(terms: list[dict[str, Demand]]) -> dict[str, Demand]:
    joined: dict[str, Demand] = {}
    for label in set(terms[0]).intersection(*terms[1:]):
        wanted = [term[label] for term in terms]
        known = [values for values in wanted if values is not None]
        joined[label] = frozenset().union(*known) if len(known) == len(wanted) else None
    return joined
