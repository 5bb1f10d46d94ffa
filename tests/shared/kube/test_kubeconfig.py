"""Kubeconfig files: what is taken from them, and what is said of those that cannot be used."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.kube import kubeconfig
from shared.kube.kubeconfig import KubeconfigError, access_of

Json = dict[str, Any]


def write(folder: Path, cluster: Json, user: Json | None = None, current: str | None = "here") -> Path:
    path = folder / "config"
    context = {"cluster": "c"} | ({"user": "u"} if user is not None else {})
    config = {
        "current-context": current,
        "contexts": [{"name": "here", "context": context}],
        "clusters": [{"name": "other", "cluster": {}}, {"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_files_are_beside_it_and_what_it_carries_is_gone_afterwards(tmp_path: Path) -> None:
    cluster = {"server": "https://10.0.0.1:6443/", "certificate-authority": "ca.crt", "insecure-skip-tls-verify": True}
    user = {"client-certificate-data": packed("cert"), "client-key-data": packed("key"), "token": "secret"}
    with access_of(write(tmp_path, cluster, user)) as access:
        assert (access.server, access.ca_file, access.insecure) == (
            "https://10.0.0.1:6443",
            tmp_path / "ca.crt",
            True,
        )
        files = [Path(str(name)) for name in (access.cert_file, access.key_file, access.token_file)]
        assert [file.read_text() for file in files] == ["cert", "key", "secret"]
        assert files[0].parent.stat().st_mode & 0o777 == 0o700
    assert not files[0].parent.exists()


def test_without_a_user(tmp_path: Path) -> None:
    with access_of(write(tmp_path, {"server": "http://127.0.0.1:8080"})) as access:
        assert (access.server, access.token_file, access.cert_file) == ("http://127.0.0.1:8080", None, None)


@pytest.mark.parametrize(
    ("cluster", "user", "current", "says"),
    [
        ({"server": "https://a"}, None, "gone", "contexts: there is no 'gone'"),
        ({"server": "https://a"}, None, None, "contexts: there is no None"),
        ({"server": "ftp://a"}, None, "here", "server: expected https"),
        ({"server": "https://a"}, {"exec": {"command": "aliyun"}}, "here", "use a token"),
        ({"server": "https://a"}, {"username": "me", "password": "secret"}, "here", "use a token or a certificate"),
        ({"server": "https://a"}, {"client-key": "key"}, "here", "belong together"),
        ({"server": "https://a", "certificate-authority-data": "!"}, None, "here", "no base64"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, cluster: Json, user: Json | None, current: str | None, says: str) -> None:
    with (
        pytest.raises(KubeconfigError, match=says) as raised,
        access_of(write(tmp_path, cluster, user, current)),
    ):
        pass
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_what_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(KubeconfigError, match="config"), access_of(tmp_path / "config"):
        pass


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"server": "https://named"})
    monkeypatch.setenv("KUBECONFIG", f"{path}:/nowhere")
    with access_of(None) as access:
        assert access.server == "https://named"
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KubeconfigError, match=r"\.kube/config"), access_of(None):
        pass
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert kubeconfig.in_cluster().server == "https://[fd00::1]:443"
