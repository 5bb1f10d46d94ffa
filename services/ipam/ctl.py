"""`terwayctl leaks`: what this node holds and nobody may need, with the evidence, from what ipam and eni_manager show.

It decides nothing and ends nothing: the services do that themselves, on evidence from two sides. This is for people
who want to know why something is still there.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

Json = Any
"""A service's /state, decoded."""

ON_ITS_WAY_OUT = frozenset({"draining", "detaching", "deleting"})
"""States of an ENI that eni_manager is about to be rid of."""


class Suspect(NamedTuple):
    """`kind`: lease, attachment, address or eni."""

    kind: str
    what: str
    evidence: str


def suspects(ipam: Json, eni_manager: Json, now: float) -> Iterator[Suspect]:
    """Everything suspicious in two states taken at about the same time."""
    leases = {"/".join((key["network"], key["container_id"], key["ifname"])): lease for key, lease in _keyed(ipam)}
    for key, suspect in ipam["suspects"].items():
        lease = leases.get(key)
        held = f"{lease['ipv4'] or lease['ipv6']} for {_pod(lease)}" if lease else "its lease has ended meanwhile"
        evidence = f"{suspect['finding']}, and nothing of it is connected, for {now - suspect['since']:.0f} s; {held}"
        yield Suspect("lease", key, evidence)
    for key in ipam["strangers"]:
        yield Suspect("attachment", key, "is connected, and ipam knows no lease of it")
    for difference in ipam["differences"]:
        yield Suspect("lease", difference.split(" ", 1)[0], difference)
    for address, item in ipam["addresses"].items():
        if item["state"] == "given-back":
            last = item["story"][-1]["event"] if item["story"] else "no story"
            yield Suspect("address", address, f"given back, and the cloud has not confirmed it yet: {last}")
    yield from _of_enis(ipam, eni_manager)


def _of_enis(ipam: Json, eni_manager: Json) -> Iterator[Suspect]:
    known = set(ipam["addresses"])
    for eni in eni_manager["enis"]:
        name = eni.get("id") or eni["name"]
        if eni["state"] in ON_ITS_WAY_OUT:
            last = eni["story"][-1] if eni["story"] else "no story"
            yield Suspect("eni", name, f"is {eni['state']}: {last}")
        for address, slot in eni["slots"].items():
            if slot["state"] == "missing":
                yield Suspect("address", address, f"the cloud has taken it away from {name}, and a sandbox may use it")
            elif slot["state"] == "valid" and address not in known:
                yield Suspect("address", address, f"{name} has it, and ipam does not know of it")
    for notice in eni_manager["notices"]:
        if "unknown to the journal" in notice["what"]:
            yield Suspect("eni", notice["about"], notice["what"])


def _keyed(ipam: Json) -> Iterator[tuple[Json, Json]]:
    return ((lease["key"], lease) for lease in ipam["leases"])


def _pod(lease: Json) -> str:
    return f"{lease['pod']['namespace']}/{lease['pod']['name']}"


@click.command()
@click.option("--ipam", default="http://127.0.0.1:9441", show_default=True, help="Where ipam shows its state.")
@click.option("--eni-manager", default="http://127.0.0.1:9096", show_default=True, help="Where eni_manager does.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def leaks(*, ipam: str, eni_manager: str, as_json: bool) -> None:
    """What this node holds and nobody may need, with the evidence. Exit code 1 when there is something."""
    found = list(suspects(_state("ipam", ipam), _state("eni_manager", eni_manager), time.time()))
    if as_json:
        click.echo(json.dumps([one._asdict() for one in found], indent=2))
    else:
        for one in found:
            click.echo(f"{one.kind:<10}  {one.what}  {one.evidence}")
        click.echo(f"{len(found)} suspects" if found else "nothing is suspicious")
    if found:
        raise SystemExit(1)


def _state(name: str, url: str) -> Json:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/state", timeout=10) as answer:  # noqa: S310 an operator's URL
            return json.load(answer)
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise click.ClickException(f"{name} does not show its state at {url}: {error}") from error
