"""ACS3-HMAC-SHA256: the documented example, and every way in which a request is not what was signed."""

import hashlib
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.api import Api
from compose.lab.cloud.core.errors import CloudError
from compose.lab.cloud.core.model import DELAYS, AccessKey
from compose.lab.cloud.core.signature import MAX_SKEW_S, Nonces
from compose.lab.cloud.core.signature_v3 import ALGORITHM, Signed, canonical, sign, string_to_sign, verify

NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
EMPTY = hashlib.sha256(b"").hexdigest()
KEYS = {"ak": AccessKey("ak", "secret"), "STS.x": AccessKey("STS.x", "s", "tok", NOW + 60)}


def test_the_documented_example_of_a_signature() -> None:
    """The worked example of the API's page on signatures, version 3."""
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": EMPTY,
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    query = {"RegionId": "cn-shanghai", "ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"}
    text = canonical(Signed("POST", "/", query, headers), sorted(headers), EMPTY)
    assert string_to_sign(text).endswith("\n7ea06492da5221eba5297e897ce16e55f964061054b7695beedaac1145b1e259")
    assert sign("YourAccessKeySecret", text) == "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"


def signed(
    key: str = "ak", secret: str = "secret", at: float = NOW, body: bytes = b"", unsigned: str = "", **headers: str
) -> Signed:
    """A request as an honest client signs it; `unsigned` is left out of the signature."""
    digest = hashlib.sha256(body).hexdigest()
    all_headers = {
        "host": "ecs",
        "x-acs-action": "DescribeNetworkInterfaces",
        "x-acs-version": "2014-05-26",
        "x-acs-date": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "x-acs-signature-nonce": "n",
        "x-acs-content-sha256": digest,
        "accept": "application/json",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    request = Signed("POST", "/", {"MaxResults": "5", "Tag.1.Key": "ü & +*~/"}, all_headers, body)
    names = sorted(name for name in all_headers if name != unsigned)
    signature = sign(secret, canonical(request, names, digest))
    return with_header(
        request, authorization=f"{ALGORITHM} Credential={key},SignedHeaders={';'.join(names)},Signature={signature}"
    )


def with_header(request: Signed, **headers: str) -> Signed:
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    return msgspec.structs.replace(request, headers={**request.headers, **changed})


def code_of(request: Signed, nonces: Nonces | None = None, now: float = NOW) -> str:
    with pytest.raises(CloudError) as caught:
        verify(request, keys=KEYS, nonces=nonces or Nonces(), now=now)
    return caught.value.code


def test_an_honest_request() -> None:
    assert verify(signed(body=b"x=1", content_type="text/plain"), keys=KEYS, nonces=Nonces(), now=NOW).id == "ak"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"path": "/other"},
        {"query": {"MaxResults": "6", "Tag.1.Key": "ü & +*~/"}},
        {"query": {"MaxResults": "5"}},
    ],
)
def test_whatever_is_changed_breaks_the_signature(change: dict[str, object]) -> None:
    assert code_of(msgspec.structs.replace(signed(), **change)) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("name", ["x-acs-action", "x-acs-version", "host", "accept", "x-acs-signature-nonce"])
def test_whatever_header_is_changed_breaks_the_signature(name: str) -> None:
    assert code_of(with_header(signed(), **{name: "other"})) == "SignatureDoesNotMatch"


def test_the_body_is_what_its_hash_says() -> None:
    request = signed(body=b"x=1")
    assert code_of(msgspec.structs.replace(request, body=b"x=2")) == "InvalidContentSHA256"
    other = hashlib.sha256(b"x=2").hexdigest()
    forged = with_header(msgspec.structs.replace(request, body=b"x=2"), x_acs_content_sha256=other)
    assert code_of(forged) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("name", ["x-acs-action", "x-acs-version", "x-acs-date", "host", "x-acs-security-token"])
def test_a_header_that_means_something_must_be_signed(name: str) -> None:
    assert code_of(signed(unsigned=name, x_acs_security_token="")) == "IncompleteSignature"


@pytest.mark.parametrize("text", ["ACS3-HMAC-SHA256", "ACS3-HMAC-SM3 Credential=ak,SignedHeaders=host,Signature=00"])
def test_another_kind_of_authorization(text: str) -> None:
    assert code_of(with_header(signed(), authorization=text)) == "IncompleteSignature"


@pytest.mark.parametrize("name", ["x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256"])
def test_what_is_mandatory(name: str) -> None:
    assert code_of(with_header(signed(), **{name: ""})) == "MissingParameter"


def test_clock_nonce_and_keys() -> None:
    assert code_of(signed(at=NOW - MAX_SKEW_S - 1)) == "InvalidTimeStamp.Expired"
    assert code_of(signed(at=NOW + MAX_SKEW_S + 1)) == "InvalidTimeStamp.Expired"
    assert code_of(with_header(signed(), x_acs_date="yesterday")) == "InvalidTimeStamp.Format"
    assert code_of(signed(key="nobody")) == "InvalidAccessKeyId.NotFound"
    assert code_of(signed(secret="wrong")) == "SignatureDoesNotMatch"
    assert code_of(signed(key="STS.x", secret="s")) == "MissingSecurityToken"
    forged = signed(key="STS.x", secret="s", x_acs_security_token="other")
    assert code_of(forged) == "InvalidSecurityToken.MismatchWithAccessKey"
    right = signed(key="STS.x", secret="s", x_acs_security_token="tok")
    nonces = Nonces()
    assert verify(right, keys=KEYS, nonces=nonces, now=NOW).id == "STS.x"
    assert code_of(right, nonces) == "SignatureNonceUsed"
    assert code_of(right, now=NOW + 60) == "InvalidSecurityToken.Expired"


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4))
def test_any_query_has_one_form_whatever_its_order(query: dict[str, str]) -> None:
    forms = {
        canonical(Signed("GET", "/", dict(pairs), {}), [], EMPTY)
        for pairs in (query.items(), reversed(query.items()), sorted(query.items()))
    }
    assert len(forms) == 1


def test_a_replay_by_the_other_scheme_is_a_replay() -> None:
    """Both schemes have one memory of nonces, as they have one set of keys."""
    account = Account(delays=DELAYS["none"])
    account.add_key(AccessKey("ak", "secret"))
    api = Api(account)
    request = signed()
    call = api.admit("POST", request.query, NOW, signed=request)
    assert (call.action.name, call.parameters) == ("DescribeNetworkInterfaces", dict(request.query))
    with pytest.raises(CloudError) as caught:
        api.admit("POST", request.query, NOW, signed=request)
    assert caught.value.code == "SignatureNonceUsed"
