"""`terwayctl lab apply|delete|label`: the Kubernetes API without kubectl.

A part of `cli.py`, which imports it last; its commands hang on that module's group.
"""

from collections.abc import Sequence
from typing import IO, Any

import click

from compose.lab import manifests, record
from compose.lab.cli import Context, command, lab
from compose.lab.pods import parse_pod
from shared.errors import SuiteError
from shared.kube.access import KubeAddress
from shared.kube.client import KubeClient
from shared.kube.resources import NAMESPACES, NODES, PODS
from shared.model import PodKey

_FILES = click.option(
    "-f", "files", type=click.File("r"), multiple=True, required=True, help="YAML or JSON; `-` is standard input."
)
_NAMESPACE = click.option("-n", "--namespace", default="default", show_default=True, help="Of objects that name none.")


@lab.command("apply")
@_FILES
@_NAMESPACE
@command
async def apply(context: Context, files: Sequence[IO[str]], namespace: str) -> int:
    """Make what the manifests say, as `kubectl apply` does.

    Pods that they make are objects only: `lab pod add` is what runs one.
    """
    record.read(context.layout)
    objects = [obj for file in files for obj in manifests.read(file.read(), source=file.name)]
    done: list[manifests.Done] = []
    failures = 0
    async with manifests.connect(context.layout.kube_socket) as cluster:
        for obj in objects:
            try:
                done.append(await cluster.apply(obj, namespace=namespace))
            except SuiteError as error:
                failures += 1
                _complain(obj, error)
    context.answer(done, "\n".join(map(str, done)))
    return 1 if failures else 0


@lab.command("delete")
@_FILES
@_NAMESPACE
@command
async def delete(context: Context, files: Sequence[IO[str]], namespace: str) -> int:
    """Remove what the manifests name, the last first. Pods end with their sandboxes, namespaces with their pods."""
    there = record.read(context.layout)
    objects = [obj for file in files for obj in manifests.read(file.read(), source=file.name)]
    done: list[manifests.Done] = []
    failures = 0
    async with manifests.connect(context.layout.kube_socket) as cluster, context.pods(there) as pods:
        for obj in reversed(objects):
            try:
                for pod in await _running(obj, cluster.kube, namespace):
                    await pods.delete(pod)
                done.append(await cluster.delete(obj, namespace=namespace))
            except SuiteError as error:
                failures += 1
                _complain(obj, error)
    context.answer(done, "\n".join(map(str, done)))
    return 1 if failures else 0


async def _running(obj: dict[str, Any], kube: KubeClient, namespace: str) -> list[PodKey]:
    """The pods that end with the object, of those that run somewhere."""
    metadata = obj["metadata"]
    match obj["apiVersion"], obj["kind"]:
        case "v1", "Pod":
            home, only = metadata.get("namespace") or namespace, f"metadata.name={metadata['name']}"
        case "v1", "Namespace":
            home, only = metadata["name"], ""
        case _:
            return []
    found = [pod async for pod in kube.list(PODS, dict, namespace=home, field_selector=only)]
    return [PodKey(home, pod["metadata"]["name"]) for pod in found if pod["spec"].get("nodeName")]


def _complain(obj: dict[str, Any], error: SuiteError) -> None:
    click.echo(f"error: {obj['kind']} {obj['metadata']['name']}: {error.message}", err=True)


_KINDS = {"pod": PODS, "ns": NAMESPACES, "namespace": NAMESPACES, "node": NODES}


@lab.command("label")
@click.argument("kind", type=click.Choice([*_KINDS]))
@click.argument("target", metavar="NAME")
@click.argument("changes", nargs=-1, required=True, metavar="K=V|K-…")
@command
async def label(context: Context, kind: str, target: str, changes: Sequence[str]) -> None:
    """Set labels (K=V) and remove them (K-) of a pod (NS/NAME), a namespace or a node."""
    wanted: dict[str, str | None] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals and not key.endswith("-"):
            raise click.BadParameter(f"expected K=V or K-, got {change!r}", param_hint="K=V|K-")
        wanted[key if equals else key[:-1]] = value if equals else None
    record.read(context.layout)
    pod = parse_pod(target) if kind == "pod" else None
    async with KubeClient(KubeAddress(f"unix://{context.layout.kube_socket}")) as kube:
        after = await kube.patch(
            _KINDS[kind],
            dict,
            pod.name if pod else target,
            {"metadata": {"labels": wanted}},
            namespace=pod.namespace if pod else None,
        )
    labels = after["metadata"].get("labels") or {}
    context.answer(labels, "\n".join(f"{key}={value}" for key, value in sorted(labels.items())))
