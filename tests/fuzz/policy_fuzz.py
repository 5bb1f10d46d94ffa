"""`make fuzz`: coverage-guided search for a text or manifest that breaks the policy calculation.

The first byte of an input chooses between a selector, in either language, and one of the manifests of
tests/policy/test_fuzz.py with some of its places replaced. Whatever is raised but the documented errors is a find;
libFuzzer writes the input that led there to a file `crash-…` and ends.
"""

import random
import sys

import atheris

# atheris 2.3 spoils the bytecode of the selectors' token generator on Python 3.11: it runs here without being measured.
with atheris.instrument_imports(include=["services.policy"], exclude=["services.policy.core.selectors"]):
    from services.policy.core import objects
    from services.policy.core.graph import Graph
    from services.policy.core.intake import Intake
    from services.policy.core.problems import Invalid
    from services.policy.core.profiles import PROFILES
    from services.policy.core.selectors import Language, SelectorError, parse

from tests.policy.dataplane import Dataplane
from tests.policy.test_fuzz import MANIFESTS, spoiled

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


def manifests_of(given: atheris.FuzzedDataProvider) -> None:
    """A manifest is read or Invalid, and the dataplane never hears of what it was not told before."""
    compat = COMPATS[given.ConsumeIntInRange(0, len(COMPATS) - 1)]
    intake, graph, dataplane = Intake(compat), Graph("node1", compat), Dataplane()
    graph.in_sync()
    while given.remaining_bytes() > 8:
        manifest = MANIFESTS[given.ConsumeIntInRange(0, len(MANIFESTS) - 1)]
        dice = random.Random(given.ConsumeInt(6))
        raw = spoiled(manifest, dice, given.ConsumeIntInRange(0, 6))
        kind = objects.kind_of(raw)
        assert kind is not None
        try:
            written = objects.read(raw, kind)
        except Invalid:
            continue
        for key, _, value in intake.apply(written):
            graph.update(key, value)
        dataplane.apply(graph.flush())


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
