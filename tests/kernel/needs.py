"""What a test needs of the kernel: skipped where the kernel lacks it, and then `make test-kernel` must have run it."""

import os

import pytest

from services.eni_manager.adapters.kernel import known
from services.eni_manager.core.preflight import Kinds

LACKS = "kernel lacks "
"""How the reason of every such skip begins."""


def needs(
    *, links: tuple[str, ...] = (), qdiscs: tuple[str, ...] = (), classifiers: tuple[str, ...] = ()
) -> pytest.MarkDecorator:
    """A mark for tests that need all of these kinds."""
    if os.geteuid() != 0:
        return pytest.mark.skip(reason="what the kernel has can only be tried by root")
    found = known(Kinds(links, qdiscs, classifiers))
    lacking = [
        *(f"links of kind {kind}" for kind in links if kind not in found.links),
        *(f"the qdisc {kind}" for kind in qdiscs if kind not in found.qdiscs),
        *(f"the classifier {kind}" for kind in classifiers if kind not in found.classifiers),
    ]
    return pytest.mark.skipif(bool(lacking), reason=f"{LACKS}{', '.join(lacking) or 'nothing'}; see make test-kernel")
