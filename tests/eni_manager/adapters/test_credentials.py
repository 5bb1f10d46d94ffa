"""Where keys come from, when they are fetched again, and that nobody sees them."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from services.eni_manager.adapters.credentials import Credentials, FixedKeys, TemporaryKeys, choose, read_token_file
from services.eni_manager.adapters.imds import RoleCredentials
from shared.dump import dump
from shared.eni_conf import EniConf
from shared.errors import Unavailable
from shared.secret import Secret

KEYRING = "0123456789abcdef0123456789abcdef"
SEALED = {
    # (head -c 16 IV; printf TEXT | openssl enc -aes-256-cbc -K HEX_OF_KEYRING -iv HEX_OF_IV) | base64
    "access.key.id": "AAECAwQFBgcICQoLDA0OD1Fq8XSNhTYnH1Mp4ub6tBo=",
    "access.key.secret": "AAECAwQFBgcICQoLDA0ODwp5Ifbyk/VScsI2KFDujPg=",
    "security.token": "AAECAwQFBgcICQoLDA0OD2DE5XdrWkj09GQ4VaS4S0w=",
}


def token_file(path, **changes):
    content = {**SEALED, "expiration": "2026-11-22T23:59:59Z", "keyring": KEYRING, **changes}
    path.write_text(json.dumps(content))
    return path


def test_reads_what_openssl_has_sealed(tmp_path):
    keys = read_token_file(token_file(tmp_path / "token-config"))
    assert (keys.key_id, keys.key_secret.reveal(), keys.token.reveal()) == ("STS.id", "the secret", "the token")
    assert keys.expires == datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"keyring": "f" * 32}, "does not open"),
        ({"keyring": "short"}, "does not open"),
        ({"security.token": "!"}, "does not open"),
        ({"security.token": ""}, "does not open"),
        ({"expiration": "soon"}, "not of the form"),
        ({"expiration": None}, "not a token file"),
    ],
)
def test_a_broken_token_file_is_named_without_its_content(tmp_path, changes, says):
    path = token_file(tmp_path / "token-config", **changes)
    with pytest.raises(Unavailable, match=says) as raised:
        read_token_file(path)
    assert str(path) in raised.value.message
    assert KEYRING not in raised.value.message
    assert raised.value.__cause__ is None


def test_a_missing_token_file(tmp_path):
    with pytest.raises(Unavailable, match="No such file"):
        read_token_file(tmp_path / "none")


class OneRole:
    """A metadata service that knows one role."""

    async def role_name(self):
        return "role"

    async def role_credentials(self, role):
        return RoleCredentials(f"id-of-{role}", "secret", "token", "2030-01-02T03:04:05Z")


async def test_the_order_of_sources(tmp_path):
    both = EniConf(access_key=Secret("conf"), access_secret=Secret("s"), credential_path=str(tmp_path / "t"))
    addon = tmp_path / "addon"
    addon.mkdir()
    (addon / "access-key-id").write_text("addon\n")
    assert (await choose(both, OneRole(), directory=addon).get()).key_id == "conf", "half a pair is none"
    (addon / "access-key-secret").write_text("s\n")
    assert (await choose(both, OneRole(), directory=addon).get()).key_id == "addon"
    token_file(tmp_path / "t")
    only_file = choose(EniConf(credential_path=str(tmp_path / "t")), OneRole(), directory=tmp_path)
    assert (await only_file.get()).key_id == "STS.id"
    role = await choose(EniConf(), OneRole(), directory=tmp_path).get()
    assert (role.key_id, role.token.reveal(), role.source) == ("id-of-role", "token", "RAM role role")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Source:
    """Gives keys that live an hour; each fetch takes a moment. `broken` makes it fail."""

    def __init__(self, clock):
        self.clock, self.fetched, self.broken = clock, 0, False

    async def __call__(self):
        await asyncio.sleep(0)
        if self.broken:
            raise Unavailable("metadata is away")
        self.fetched += 1
        return Credentials(f"k{self.fetched}", Secret("s"), token=Secret("t"), expires=self.clock.now + 3600)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def source(clock):
    return Source(clock)


@pytest.fixture
def keys(source, clock):
    return TemporaryKeys(source, source="test", clock=clock)


async def test_many_askers_cost_one_fetch(keys, source):
    assert {k.key_id for k in await asyncio.gather(*(keys.get() for _ in range(20)))} == {"k1"}
    assert source.fetched == 1


async def test_fetched_again_five_minutes_before_the_end(keys, clock):
    await keys.get()
    clock.now += 3299
    assert (await keys.get()).key_id == "k1"
    clock.now += 1
    assert (await keys.get()).key_id == "k2"


async def test_valid_keys_serve_on_when_fetching_fails(keys, source, clock):
    await keys.get()
    clock.now += 3400
    source.broken = True
    assert (await keys.get()).key_id == "k1"
    source.broken = False
    assert (await keys.get()).key_id == "k1", "not asked again at once"
    clock.now += 10
    assert (await keys.get()).key_id == "k2"


async def test_expired_keys_do_not_serve(keys, source, clock):
    await keys.get()
    clock.now += 3600
    source.broken = True
    with pytest.raises(Unavailable, match="metadata is away"):
        await keys.get()


async def test_keys_that_the_cloud_refuses_are_fetched_again(keys):
    first = await keys.get()
    keys.refused(first)
    assert (await keys.get()).key_id == "k2"
    keys.refused(first)
    assert (await keys.get()).key_id == "k2", "only the current ones can be refused"


async def test_nobody_sees_them():
    keys = await FixedKeys(Credentials("id", Secret("hunter2"), token=Secret("tok-en"))).get()
    for shown in (repr(keys), str(keys), dump(keys).decode()):
        assert "hunter2" not in shown
        assert "tok-en" not in shown
