"""The kubeconfig by which ordinary clients on this machine (kubectl, SDKs, editors) reach a lab's API server.

The server is in the VPC's namespace, so it listens on a loopback port of the machine besides. It knows no users.
Where another cluster's API server stands in, there is no such port: its own kubeconfig leads there, and a port that
hands on its credentials to anybody on the machine would be a hole.
"""

from pathlib import Path

_TEXT = """\
apiVersion: v1
kind: Config
current-context: {name}
contexts:
- name: {name}
  context: {{cluster: {name}, user: {name}}}
clusters:
- name: {name}
  cluster: {{server: "{server}"}}
users:
- name: {name}
  user: {{}}
"""


def write(path: Path, *, lab: str, server: str) -> None:
    """Write it, all or nothing."""
    fresh = path.with_suffix(".new")
    fresh.write_text(_TEXT.format(name=f"terway-{lab}", server=server))
    fresh.rename(path)
