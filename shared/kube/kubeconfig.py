"""A kubeconfig file, as kubectl reads it, for tools that a person runs: where the API server is, and who is asking."""

import base64
import binascii
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from shared.kube.access import KubeAddress

IN_CLUSTER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeconfigError(Exception):
    """The file cannot be used; the message says why, with the field."""


@contextmanager
def access_of(path: Path | None) -> Iterator[KubeAddress]:
    """The file's current context; None: $KUBECONFIG, ~/.kube/config, or the pod's service account. What the file
    carries in itself (certificates, keys, tokens) lies in a private folder until the end. Raises KubeconfigError."""
    if path is None:
        named = os.environ.get("KUBECONFIG", "").partition(os.pathsep)[0]
        path = Path(named) if named else Path.home() / ".kube" / "config"
        if not named and not path.exists() and (IN_CLUSTER / "token").exists():
            yield in_cluster()
            return
    with tempfile.TemporaryDirectory(prefix="terway-kube-") as folder:
        yield _address(path, Path(folder))


def in_cluster() -> KubeAddress:
    """By the service account of the pod that this runs in."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeconfigError(f"{IN_CLUSTER} is there, and KUBERNETES_SERVICE_HOST is not set")
    address = f"[{host}]" if ":" in host else host
    return KubeAddress(f"https://{address}:{port}", token_file=IN_CLUSTER / "token", ca_file=IN_CLUSTER / "ca.crt")


def _address(path: Path, folder: Path) -> KubeAddress:
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise KubeconfigError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise KubeconfigError(f"{path}: no kubeconfig")
    context = _named(config, "contexts", "context", config.get("current-context"), path)
    cluster = _named(config, "clusters", "cluster", context.get("cluster"), path)
    user = _named(config, "users", "user", context.get("user"), path) if context.get("user") else {}
    if "exec" in user or "auth-provider" in user:
        raise KubeconfigError(f"{path}: users that ask a program for their token are not supported: use a token")
    if user.get("username"):
        raise KubeconfigError(f"{path}: users with a password are not supported: use a token or a certificate")
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise KubeconfigError(f"{path}: clusters[].cluster.server: expected https://…, got {server!r}")
    certificate, key = (_file(user, name, path, folder) for name in ("client-certificate", "client-key"))
    if (certificate is None) != (key is None):
        raise KubeconfigError(f"{path}: client-certificate and client-key belong together")
    return KubeAddress(
        server.rstrip("/"),
        token_file=_token(user, path, folder),
        ca_file=_file(cluster, "certificate-authority", path, folder),
        cert_file=certificate,
        key_file=key,
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
    )


def _named(config: dict[str, Any], listed: str, inner: str, name: Any, path: Path) -> dict[str, Any]:
    for entry in config.get(listed) or ():
        if isinstance(entry, dict) and entry.get("name") == name and name is not None:
            found = entry.get(inner) or {}
            if isinstance(found, dict):
                return found
    raise KubeconfigError(f"{path}: {listed}: there is no {name!r}")


def _file(section: dict[str, Any], name: str, path: Path, folder: Path) -> Path | None:
    if packed := section.get(f"{name}-data"):
        made = folder / name
        try:
            made.write_bytes(base64.b64decode(str(packed), validate=True))
        except (binascii.Error, ValueError):
            raise KubeconfigError(f"{path}: {name}-data is no base64") from None
        return made
    return path.parent / str(section[name]) if section.get(name) else None


def _token(user: dict[str, Any], path: Path, folder: Path) -> Path | None:
    if user.get("tokenFile"):
        return path.parent / str(user["tokenFile"])
    if not user.get("token"):
        return None
    made = folder / "token"
    made.write_text(str(user["token"]))
    return made
