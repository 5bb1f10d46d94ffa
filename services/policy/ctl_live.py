"""`terwayctl policy` on the node that it runs on: asks the running service over HTTP."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from services.policy.core.matrix import Probe
from services.policy.core.overview import Explanation

TIMEOUT_S = 60.0
"""A question about 100,000 endpoints takes a quarter of it."""

url_option = click.option(
    "--url", default="http://127.0.0.1:9099", show_default=True, envvar="TERWAY_POLICY_URL",
    help="Where the policy service of this node answers.",
)  # fmt: skip


@click.command()
@url_option
def dump(url: str) -> None:
    """What this node's calculation tells the dataplane, in Felix's terms, as JSON."""
    click.echo(json.dumps(json.loads(_ask(url, "/policy/dump")), indent=2))


@click.command()
@click.argument("pod", metavar="NS/POD")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@url_option
def status(pod: str, as_json: bool, url: str) -> None:
    """What is in force for a pod of this node, since when, and whether something waits. Exit 1: something does."""
    found = json.loads(_ask(url, "/policy/status", {"pod": pod}))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for sandbox in found:
            click.echo(_standing(sandbox))
    if any(sandbox["pending"] or not sandbox["enforced_at"] for sandbox in found):
        raise click.exceptions.Exit(1)


def _standing(sandbox: dict[str, Any]) -> str:
    since = sandbox["enforced_at"]
    lines = [
        f"{sandbox['pod']} {sandbox['link']} {','.join(sandbox['addresses'])}",
        f"  in force:  {f'since {_moment(since)}' if since else 'not yet'}"
        + (f" ({since - sandbox['attached_at']:.3f} s after its address)" if since else ""),
        f"  pending:   {'yes: ' + (sandbox['trouble'] or 'being written') if sandbox['pending'] else 'no'}",
        f"  policies:  {', '.join(sandbox['policies']) or 'none'}",
        f"  profiles:  {', '.join(sandbox['profiles']) or 'none'}",
    ]
    for one in sandbox.get("counted", ()):
        name = f"{one['tier']}/{one['name']}" if one.get("tier") else one["name"]
        lines += [
            f"  matched:   {name} {rule['direction']} rule {rule['rule']} ({rule['action']}): {_amount(rule)}"
            for rule in one["rules"]
        ]
    for drop in sandbox.get("dropped", ()):
        lines.append(f"  dropped:   {drop['direction']}: {_amount(drop)}: {drop['by'] or drop['why']}")
    return "\n".join(lines)


def _amount(counted: dict[str, Any]) -> str:
    return f"{counted['packets']} packets, {counted['bytes']} bytes"


def _moment(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def explanation(url: str, source: str, destination: str, probe: Probe, *, everything: bool) -> Explanation:
    """The running service's answer. ClickException with its word when there is none."""
    query = {"from": source, "to": destination, "port": probe.text} | ({"all": "true"} if everything else {})
    return msgspec.json.decode(_ask(url, "/policy/explain", query), type=Explanation)


def _ask(url: str, path: str, query: dict[str, str] | None = None) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"expected http://…, got {url!r}", param_hint="--url")
    address = f"{url.rstrip('/')}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the scheme is checked above
            found: bytes = answer.read()
            return found
    except urllib.error.HTTPError as error:
        raise click.ClickException(_why(error)) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise click.ClickException(f"no answer from {url}: {reason}; is network_policy on, on this node?") from None


def _why(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            why = str(json.loads(error.read())["error"])
        except (ValueError, KeyError, TypeError, OSError):
            why = error.reason
    if error.code == 404 and why == "Not Found":
        return "the policy service has no such page: network_policy is off on this node"
    return why
