"""How tests are dealt to guests."""

from itertools import chain

from tests.kernel.__main__ import LABS, group, shares

TESTS = [
    *(f"tests/system/modes/test_traffic.py::test_pods[{number}]" for number in range(50)),
    *(f"tests/conformance/test_x_live.py::test_x[{number}]" for number in range(3)),
    *(f"tests/kernel/test_a.py::test_a[{number}]" for number in range(30)),
    *(f"tests/kernel/test_b.py::test_b[{number}]" for number in range(10)),
    "tests/system/modes/test_damage.py::test_damage[the route]",
    "tests/system/dataplane/test_kernel.py",
]


def test_each_runs_once() -> None:
    for guests in (1, 2, 3):
        assert sorted(chain.from_iterable(shares(TESTS, guests))) == sorted(TESTS)


def test_no_guest_without_tests() -> None:
    assert shares(["tests/kernel/test_a.py::test_a"], 2) == [["tests/kernel/test_a.py::test_a"]]


def test_a_labs_tests_and_a_files_stay_together() -> None:
    for name in {group(test) for test in TESTS}:
        assert len([share for share in shares(TESTS, 2) if any(group(test) == name for test in share)]) == 1


def test_a_lab_begins_when_all_else_is_done() -> None:
    for share in shares(TESTS, 2):
        labs = [group(test) in LABS for test in share]
        assert labs == sorted(labs) and any(labs), "each has one of the two"
