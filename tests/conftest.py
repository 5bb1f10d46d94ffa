"""How `make system` shares tests out between two workers.

A file's tests stay with one worker, and so do those of several files that share a lab, so that it is made once. What
cannot bear company at all bears the mark `alone`, and runs after them.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from shared.model import Mode

SHARING = {
    **dict.fromkeys(
        (f"tests/lab/running/test_{of}.py" for of in "configuration kube lab pods services".split()), "lab"
    ),
    **dict.fromkeys(
        (f"tests/conformance/test_{of}_live.py" for of in "api_server cyclonus enforced functional".split()), "cluster"
    ),
}
"""Files that share a lab of the session, and what their conftest calls it."""
MODES = "tests/system/modes/"
"""A lab for each mode, with which the parameters of its tests begin."""


class Together(LoadScopeScheduling):
    """Units of work are what shares a lab, and else files. (xdist's own groups come to nothing with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file.startswith(MODES):
            return next((mode for mode in Mode if f"[{mode}" in test), file)
        return SHARING.get(file, file)


@pytest.hookimpl(optionalhook=True)  # xdist may be switched off
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """`--dist loadscope` is ours."""
    return Together(config, log) if config.getvalue("dist") == "loadscope" else None
