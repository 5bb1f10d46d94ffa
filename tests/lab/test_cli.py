"""The command line without a lab: help, usage, refusals, names."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner, Result

from compose.lab.layout import Layout
from services.ctl import main
from shared.errors import Invalid

COMMANDS = [
    *("up", "down", "status", "logs", "audit", "exec", "probe", "service"),
    *("pod add", "pod del", "pod list", "apply", "delete", "label"),
]


def terwayctl(*argv: str) -> Result:
    """In a thread, whose event loop is not the one that pytest keeps for its tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(CliRunner().invoke, main, argv).result()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    done = terwayctl("lab", *command.split(), "--help")
    assert done.exit_code == 0
    assert "--json" in done.output and "--name" in done.output


def test_the_groups_are_listed_without_being_imported() -> None:
    done = terwayctl("--help")
    assert done.exit_code == 0 and "lab" in done.output
    assert terwayctl("nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--mode", "ipvlan"], "shared-ipvlan"),
        (["--stack", "ipv6"], "dual"),
        (["--pool", "5"], "MIN:MAX"),
        (["--pool", "5:2"], "MIN:MAX"),
        (["--nodes", "0"], "nodes"),
        (["--runtime", "docker"], "runtime"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(argv: list[str], said: str) -> None:
    done = terwayctl("lab", "up", "--name", "never", *argv)
    assert done.exit_code == 2 and said in done.output
    assert not Layout.of("never").folder.exists()


@pytest.mark.parametrize("name", ["", "a-b", "A", "1a", "a" * 13, "../x"])
def test_names_that_would_be_mistaken_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="lab name"):
        Layout.of(name)
    assert terwayctl("lab", "down", "--name", name).exit_code == 1


def test_without_a_lab_every_question_says_so() -> None:
    never = ["--name", "never"]
    for argv in (["status", *never], ["audit", *never], ["pod", "list", *never], ["exec", *never, "a/b", "--", "true"]):
        done = terwayctl("lab", *argv)
        assert done.exit_code == 1 and "lab never is not up" in done.output
    asked = terwayctl("lab", "probe", "a/b", "c/d:80", "--name", "never", "--json")
    assert asked.exit_code == 2, "could not ask"
    assert json.loads(asked.stdout)["error"]["code"] == "not_found"
    assert terwayctl("lab", "down", "--name", "never").exit_code == 0
