"""What the cloud says of an instance type, for people: one question, with the keys of a node or of the environment."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import aiohttp

from services.eni_manager.adapters import credentials
from services.eni_manager.adapters.credentials import Credentials, CredentialSource, FixedKeys
from services.eni_manager.adapters.ecs import Ecs
from services.eni_manager.adapters.imds import Metadata
from services.eni_manager.adapters.openapi import Endpoints, OpenApi
from services.eni_manager.adapters.pacing import Buckets
from services.eni_manager.config import read
from services.eni_manager.core.model import InstanceType
from shared.backoff import TABLE
from shared.secret import Secret

KEYS: Final = (
    "ALIBABA_CLOUD_ACCESS_KEY_ID",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    "ALIBABA_CLOUD_SECURITY_TOKEN",
)
"""As the cloud's own tools call a key, its secret, and the token of a temporary one."""


async def instance_type(name: str, *, region: str, config: Path | None, env: Mapping[str, str]) -> InstanceType:
    """Ask DescribeInstanceTypes. Raises SuiteError: no keys, no region, no such type, no answer.

    Keys are the environment's, else those that a node with this configuration has. The endpoint is the public one
    where the environment's keys are used, as whoever has them is most often no node.
    """
    settings = read(config, env)
    own, conf = settings.own, settings.eni
    async with AsyncExitStack() as opened:
        session = await opened.enter_async_context(aiohttp.ClientSession(trust_env=True))
        metadata = Metadata(session, base_url=own.metadata_url)
        keys = from_environment(env) or credentials.choose(conf, metadata, directory=own.addon_secret_dir)
        region = region or conf.region_id or await metadata.region()
        public = own.endpoint_type == "public" or (not own.endpoint_type and from_environment(env) is not None)
        endpoints = Endpoints(
            region,
            overrides={"Ecs": own.ecs_endpoint},
            scheme=own.scheme or "https",
            network="public" if public else "vpc",
        )
        api = OpenApi(session, keys, region=region, endpoints=endpoints, buckets=Buckets({}))
        return await Ecs(api, backoffs=TABLE).describe_instance_type(name)


def from_environment(env: Mapping[str, str]) -> CredentialSource | None:
    """A key pair, or a temporary one with its token."""
    key, secret, token = (env.get(name, "") for name in KEYS)
    if not key or not secret:
        return None
    return FixedKeys(Credentials(key, Secret(secret), token=Secret(token), source="environment"))
