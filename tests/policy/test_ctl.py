"""`terwayctl policy` on manifests: matrix, messages, explanations, and what it says of input that is wrong."""

import json
from pathlib import Path
from typing import Any

import click.testing
import pytest
import yaml

from services.ctl import main
from tests.policy.clusters import LEGEND
from tests.policy.test_cyclonus import cluster

MANIFESTS = """
apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {team: a}}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: x, labels: {app: web}}
  spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
  status: {podIP: 10.0.0.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: x, labels: {app: db}}
  status: {podIP: 10.0.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: x}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: passed-over}
"""

WRONG = """
apiVersion: v1
kind: Pod
metadata: {name: waiting, namespace: x}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: g}
spec: {selector: "a = b"}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: open}
spec: {namespaceSelector: "a = b"}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shape, namespace: x}
spec: {podSelector: {matchLabels: 5}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: rule, namespace: x}
spec: {podSelector: {}, ingress: [{ports: [{port: http, endPort: 90}]}]}
"""


def run(*arguments: str, code: int = 0) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(main, ["policy", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(MANIFESTS)
    return tmp_path


def test_matrix(manifests: Path) -> None:
    printed = run("compute", "-f", str(manifests), "--matrix", "80/TCP,http/TCP", "--json").stdout
    assert json.loads(printed)["80/TCP"] == {
        "x/db": {"x/db": "allow", "x/web": "allow"},
        "x/web": {"x/db": "allow", "x/web": "ingress"},
    }
    text = run("compute", "-f", str(manifests), "--matrix", "80/TCP").stdout
    assert text.splitlines()[1:] == ["     1 x/db  ..", "     2 x/web .I"]


def test_matrix_of_a_cyclonus_case(vectors: Path, tmp_path: Path) -> None:
    document = json.loads((vectors / "cyclonus_vectors.json").read_text())
    step = document["cases"][0]["steps"][0]
    (tmp_path / "case.yaml").write_text(yaml.safe_dump_all(cluster(step, document)))
    probes = "80/TCP,81/UDP,serve-80-tcp/TCP"
    matrix = json.loads(run("compute", "-f", str(tmp_path), "--matrix", probes, "--json").stdout)
    names = [f"{pod['namespace']}/{pod['name']}" for pod in step["pods"]]
    for probe, expected in (("80/TCP", "TCP/80"), ("81/UDP", "UDP/81"), ("serve-80-tcp/TCP", "TCP/80")):
        rows = ["".join(LEGEND[matrix[probe][one][other]] for other in names) for one in names]
        assert rows == step["expected"][expected], probe


def test_messages_of_a_node(manifests: Path) -> None:
    lines = run("compute", "-f", str(manifests), "--node", "n1").stdout.splitlines()
    endpoints = [line for line in lines if line.startswith("WorkloadEndpointUpdate")]
    assert len(endpoints) == 1 and "x/web" in endpoints[0]
    assert lines[-1] == "InSync {}"


def test_everything_at_once(manifests: Path) -> None:
    printed = run("compute", "-f", str(manifests), "--messages", "--matrix", "80/TCP", "--json").stdout
    together: dict[str, Any] = json.loads(printed)
    assert together["invalid"] == []
    assert together["messages"][-1] == {"InSync": {}}
    assert together["matrix"]["80/TCP"]["x/db"]["x/web"] == "allow"


def test_wrong_input_is_named_with_file_document_and_field(manifests: Path) -> None:
    (manifests / "wrong.yaml").write_text(WRONG)
    (manifests / "no.yaml").write_text("a: [")
    said = run("compute", "-f", str(manifests), "--matrix", "80/TCP", "--json", code=1).stderr.splitlines()
    beginnings = (
        "wrong.yaml document 1: Pod x/waiting: status.podIP: has no address: no policy selects it (noted)",
        "wrong.yaml document 2: GlobalNetworkPolicy g: spec.selector: ",
        "wrong.yaml document 3: GlobalNetworkPolicy open: spec.namespaceSelector: ",
        "wrong.yaml document 4: NetworkPolicy x/shape: spec.podSelector.matchLabels: ",
        "wrong.yaml document 5: NetworkPolicy x/rule: spec.ingress[0].ports[0]: ",
        "no.yaml document 1: cannot be read: ",
    )
    for beginning in beginnings:
        assert any(line.startswith(f"{manifests}/{beginning}") for line in said), beginning
    assert len(said) == 6


MISTAKEN = """
apiVersion: extensions/v1beta1
kind: NetworkPolicy
metadata: {name: old, namespace: x}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolcy
metadata: {name: typo, namespace: x}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: fine, namespace: x}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: x}
spec: {podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}]}
"""


def test_what_would_be_lost_in_silence_is_said(manifests: Path) -> None:
    (manifests / "more.yaml").write_text(MISTAKEN)
    said = run("compute", "-f", str(manifests), "--matrix", "80/TCP", code=1).stderr.splitlines()
    assert said == [
        f"{manifests}/more.yaml document 1: NetworkPolicy x/old: kind: "
        "there is no NetworkPolicy in 'extensions/v1beta1' (dropped)",
        f"{manifests}/more.yaml document 2: NetworkPolcy x/typo: kind: "
        "there is no NetworkPolcy in 'networking.k8s.io/v1' (dropped)",
        f"{manifests}/good.yaml document 3: NetworkPolicy x/web: metadata.name: "
        f"written again in {manifests}/more.yaml document 4, and that counts (replaced)",
    ]
    said = run("compute", "-f", str(manifests / "more.yaml"), "--profile", "3.5.2", code=1).stderr.splitlines()
    assert said[2:] == [
        f"{manifests}/more.yaml document 4: NetworkPolicy x/web: spec.ingress[0].ports[0].endPort: "
        "no ranges there: only port 80 is meant (ignored by profile 3.5.2)"
    ]


def test_explains_an_allowed_connection(manifests: Path) -> None:
    lines = run("explain", "x/db", "x/web:http/TCP", "-f", str(manifests)).stdout.splitlines()
    assert lines[0] == "x/db -> x/web:http/TCP: allowed"
    assert (
        "  ingress of x/web allows: tier default: policy default/x/knp.default.web rule 0: the rule says allow" in lines
    )
    assert "    1 other policies do not select x/db: --all lists them" in lines
    lines = run("explain", "x/db", "x/web:http/TCP", "-f", str(manifests), "--all").stdout.splitlines()
    assert '    policy default/x/knp.default.web selects others: app == "web" is not true of x/db' in lines
    assert not any("--all" in line for line in lines)


def test_explains_a_denied_connection(manifests: Path) -> None:
    lines = run("explain", "192.0.2.1", "x/web:80/TCP", "-f", str(manifests), code=1).stdout.splitlines()
    assert lines == [
        "192.0.2.1 -> x/web:80/TCP: denied",
        "  ingress of x/web denies: tier default: no rule of the tier matches, so it drops",
        "    asked policy default/x/knp.default.web rule 0 (allow): source 192.0.2.1 is not among pods "
        "\"projectcalico.org/orchestrator == 'k8s' && app == 'db'\"",
    ]


ORDERED = """
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: first}
spec: {order: 1, selector: app == 'web', types: [Ingress], ingress: [{action: Deny, protocol: UDP}, {action: Allow}]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: empty}
spec: {order: 0, selector: app == 'web', types: [Ingress]}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: outward}
spec: {order: 0, selector: app == 'web', types: [Egress]}
"""


def test_explains_every_policy_that_selects_an_end_and_counts_the_others(manifests: Path) -> None:
    many = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"other-{number}", "namespace": "x"},
            "spec": {"podSelector": {"matchLabels": {"app": f"other-{number}"}}},
        }
        for number in range(1000)
    ]
    (manifests / "many.json").write_text(json.dumps(many))
    (manifests / "ordered.yaml").write_text(ORDERED)
    lines = run("explain", "192.0.2.1", "x/web:80/TCP", "-f", str(manifests)).stdout.splitlines()
    assert [line for line in lines if not line.startswith("      {")] == [
        "192.0.2.1 -> x/web:80/TCP: allowed",
        "  ingress of x/web allows: tier default: policy default/first rule 1: the rule says allow",
        "    asked policy default/first rule 0 (deny): the protocol is tcp, and the rule is for udp",
        "    policy default/empty selects x/web, and has no rule for ingress",
        "    policy default/x/knp.default.web selects x/web, and is not asked: policy default/first has decided",
        "    policy default/outward selects x/web, but does not govern ingress",
        "    1000 other policies do not select x/web: --all lists them",
    ]
    answer = json.loads(run("explain", "192.0.2.1", "x/web:80/TCP", "-f", str(manifests), "--json").stdout)
    assert [len(side["bystanders"]) for side in answer["sides"]] == [3] and answer["sides"][0]["others"] == 1000
    answer = json.loads(run("explain", "192.0.2.1", "x/web:80/TCP", "-f", str(manifests), "--json", "--all").stdout)
    assert [len(side["bystanders"]) for side in answer["sides"]] == [1003]


def test_explains_in_json(manifests: Path) -> None:
    answer = json.loads(run("explain", "x/db", "x/web:80/TCP", "-f", str(manifests), "--json").stdout)
    assert answer["allowed"] is True
    assert [side["direction"] for side in answer["sides"]] == ["egress", "ingress"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("x/db", "x/web:80"), "is not PORT/PROTOCOL"),
        (("x/db", "80/TCP"), "is not TO:PORT/PROTO"),
        (("x/db", "x/web:0/TCP"), "0 is no port"),
        (("x/db", "10.1.1.1:http/TCP"), "has no ports with names"),
        (("x/db", "x/web:dns/TCP"), "has no port dns/TCP"),
        (("x/nobody", "x/web:80/TCP"), "is no pod"),
        (("fd00::1", "x/web:80/TCP"), "no address family in common"),
    ],
)
def test_questions_that_make_no_sense(manifests: Path, arguments: tuple[str, str], says: str) -> None:
    result = click.testing.CliRunner().invoke(main, ["policy", "explain", *arguments, "-f", str(manifests)])
    assert result.exit_code in (1, 2) and says in result.output
