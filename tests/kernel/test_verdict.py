"""The judge of `make test-kernel` sees what did not run."""

from pathlib import Path

from tests.kernel.verdict import shortcomings

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.kernel.test_a" name="test_one"/>
<testcase classname="tests.kernel.test_a" name="test_two[x::y]"><failure>no</failure></testcase>
<testcase classname="tests.kernel.test_a" name="test_three"><skipped/></testcase>
<testcase classname="tests.kernel.test_a.TestB" name="test_five"/>
</testsuite></testsuites>"""


def test_what_did_not_run_in_the_guest_is_named(tmp_path: Path) -> None:
    junit = tmp_path / "guest.xml"
    junit.write_text(JUNIT)
    here = "tests/kernel/test_a.py::"
    ids = [here + name for name in ("test_one", "test_two[x::y]", "test_three", "test_four", "TestB::test_five")]
    assert shortcomings(ids, [junit]) == [
        f"{here}test_three was skipped here and skipped in the guest",
        f"{here}test_four was skipped here and did not run in the guest",
    ]
