"""`make fuzz`: coverage-guided search for a text or manifest that breaks the policy calculation.

The first byte of an input chooses between a selector, in either language, and the manifests of
tests/policy/test_fuzz.py (pods, policies, Calico's custom resources, administrators' policies) with some of their
places replaced by junk or by text of the input. Whatever is raised but the documented errors is a find; libFuzzer
writes the input that led there to a file `crash-…` and ends.
"""

import sys
from collections.abc import Sequence
from typing import Any

import atheris

with atheris.instrument_imports(include=["services.policy"]):
    from services.policy.core import objects
    from services.policy.core.convert.client import stored
    from services.policy.core.graph import Graph
    from services.policy.core.intake import Intake
    from services.policy.core.problems import Invalid
    from services.policy.core.profiles import PROFILES
    from services.policy.core.selectors import Language, SelectorError, parse

from tests.policy.dataplane import Dataplane
from tests.policy.test_fuzz import JUNK, MANIFESTS, read, spoiled

COMPATS = list(PROFILES.values())
LANGUAGES = list(Language)


def one_input(data: bytes) -> None:
    """Judge one input; raises what nobody documented."""
    given = atheris.FuzzedDataProvider(data)
    if given.ConsumeBool():
        selector_of(given)
    else:
        manifests_of(given)


def selector_of(given: atheris.FuzzedDataProvider) -> None:
    """Any text is a selector or a SelectorError, and what is printed of a selector is one again."""
    language = LANGUAGES[given.ConsumeIntInRange(0, len(LANGUAGES) - 1)]
    try:
        selector = parse(given.ConsumeUnicode(sys.maxsize), language)
    except SelectorError:
        return
    parse(selector.text, language)


class Dice:
    """The fuzzer's bytes as what decides, so that it learns which decisions lead somewhere new."""

    def __init__(self, given: atheris.FuzzedDataProvider) -> None:
        self._given = given

    def random(self) -> float:
        probability: float = self._given.ConsumeProbability()
        return probability

    def choice(self, seq: Sequence[Any], /) -> Any:
        if seq is JUNK and self._given.ConsumeBool():
            return self._given.ConsumeUnicode(self._given.ConsumeIntInRange(0, 60))
        return seq[self._given.ConsumeIntInRange(0, len(seq) - 1)]


def manifests_of(given: atheris.FuzzedDataProvider) -> None:
    """A manifest is read or Invalid, and the dataplane never hears of what it was not told before."""
    compat = COMPATS[given.ConsumeIntInRange(0, len(COMPATS) - 1)]
    intake, graph, dataplane = Intake(compat), Graph("node1", compat), Dataplane()
    graph.in_sync()
    while given.remaining_bytes() > 8:
        manifest = MANIFESTS[given.ConsumeIntInRange(0, len(MANIFESTS) - 1)]
        raw = spoiled(manifest, Dice(given), given.ConsumeIntInRange(0, 6))
        kind = objects.kind_of(raw)
        assert kind is not None
        try:
            written = read(raw, kind)
            if given.ConsumeBool():
                written = stored(written, compat)
        except Invalid:
            continue
        for key, _, value in intake.apply(written):
            graph.update(key, value)
        dataplane.apply(graph.flush())


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
