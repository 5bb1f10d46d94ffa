"""`terwayctl` commands about the cloud's side of a node."""

import asyncio
import difflib
import json
import os
from pathlib import Path

import click
import msgspec

from services.eni_manager.core.capacity import HOST_NETWORK_PODS, Capacity, Caps, PodMode, shortcomings
from services.eni_manager.core.capacity import capacity as count
from services.eni_manager.core.model import InstanceType
from shared.errors import SuiteError
from shared.instance_types import TYPES


def from_catalogue(name: str) -> InstanceType | None:
    """What the shipped catalogue says of a type; None: it is not in there."""
    known = TYPES.get(name)
    if known is None:
        return None
    return InstanceType(
        known.name,
        known.eni_quantity,
        known.ipv4_per_eni,
        known.ipv6_per_eni,
        eni_total=known.eni_total,
        trunk=known.trunk,
        cpus=known.cpus,
    )


@click.command()
@click.argument("instance_type")
@click.option("--mode", type=click.Choice([mode.value for mode in PodMode]), help="One mode only.")
@click.option("--enis", type=click.IntRange(1), help="ENIs with the primary one, of a type that is not known here.")
@click.option("--addresses", type=click.IntRange(1), help="Private IPv4 addresses per ENI, of such a type.")
@click.option("--online", is_flag=True, help="Ask the cloud, not the catalogue: of types that are new.")
@click.option("--region", default="", help="Of the cloud to ask; else the configuration's or this machine's.")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A node's file: keys and endpoints."
)
@click.option("--eni-cap-ratio", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True)
@click.option("--eni-cap-shift", type=int, default=0, show_default=True)
@click.option("--max-eni", type=click.IntRange(0), default=0, show_default=True, help="0: no limit of ours.")
@click.option(
    "--pod-mask", type=click.IntRange(8, 32), default=24, show_default=True, help="Of pod ranges (vpc-route)."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def capacity(
    instance_type: str,
    *,
    mode: str | None,
    enis: int | None,
    addresses: int | None,
    online: bool,
    region: str,
    config: Path | None,
    eni_cap_ratio: float,
    eni_cap_shift: int,
    max_eni: int,
    pod_mask: int,
    as_json: bool,
) -> None:
    """How many pods INSTANCE_TYPE (ecs.g6.2xlarge) can host, and why it is or is not a good node.

    Keys for --online: ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, else those of the --config, else
    this machine's role.
    """
    kind = _online(instance_type, region, config) if online else _kind(instance_type, enis, addresses)
    caps = Caps(eni_cap_ratio, eni_cap_shift, max_eni, pod_mask)
    found = [count(kind, each, caps) for each in ([PodMode(mode)] if mode else PodMode)]
    warnings = shortcomings(kind, PodMode(mode) if mode else PodMode.SHARED)
    if as_json:
        document = {"type": kind, "capacity": found, "warnings": warnings}
        click.echo(json.dumps(msgspec.to_builtins(document), indent=2))
        return
    _table(kind, found, warnings)


def _online(name: str, region: str, config: Path | None) -> InstanceType:
    from services.eni_manager.online import instance_type  # the cloud's SDK takes a while to import

    try:
        return asyncio.run(instance_type(name, region=region, config=config, env=os.environ))
    except SuiteError as error:
        raise click.ClickException(error.message) from error


def _kind(name: str, enis: int | None, addresses: int | None) -> InstanceType:
    if enis and addresses:
        return InstanceType(name, enis, addresses)
    kind = from_catalogue(name) or from_catalogue(f"ecs.{name}")
    if kind is None:
        near = difflib.get_close_matches(name, TYPES, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise click.ClickException(
            f"{name} is not in the catalogue{hint}. DescribeInstanceTypes tells EniQuantity and "
            "EniPrivateIpAddressQuantity: ask by --online, or state them by --enis and --addresses"
        )
    return kind


def _table(kind: InstanceType, found: list[Capacity], warnings: list[str]) -> None:
    click.echo(
        f"{kind.name}: {kind.enis} ENIs with {kind.ipv4_per_eni} IPv4 and {kind.ipv6_per_eni} IPv6 addresses each"
    )
    width = max(len(one.mode) for one in found)
    for one in found:
        click.echo(f"  {one.mode:<{width}}  {one.pods:>5} pods  {one.formula}")
    click.echo(f"kubelet maxPods: those pods, and {HOST_NETWORK_PODS} of the host network")
    for warning in warnings:
        click.echo(f"warning: {warning}")
