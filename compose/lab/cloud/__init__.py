"""The lab's cloud: an account, the OpenAPI over it, instance metadata, and the fabric that makes it true.

    OpenAPI ─┐                        ┌─► fabric (links, addresses)
    metadata ┼─► Cloud ─► Account ────┤
    control ─┘           (core, pure) └─► answers

Read DESIGN.md, `core/account.py`, then `world.py`. A client's tests need no fabric, namespace or root: everything that
talks HTTP can be had on loopback as one application (OpenAPI at `/`, metadata at `/latest/…`):

    from compose.lab.cloud import build_app
    from compose.lab.cloud.core.account import Account
    from compose.lab.cloud.core.model import AccessKey, DELAYS

    account = Account(delays=DELAYS["fast"])
    account.add_key(AccessKey("ak", "secret"))
    instance = account.run_instance("node1", vswitch="vsw-lab-a", instance_type="ecs.g6.2xlarge", now=time.time())
    app = build_app(account, fabric=NullFabric(), metadata_for=instance.id)
    # aiohttp.test_utils.TestServer(app), or AppRunner + TCPSite("127.0.0.1", 0)
    app[CLOUD].spoil(Fault("AttachNetworkInterface", kind="lost_answer", times=1))

`metadata_for` is the instance that the metadata service speaks to, as every request comes from 127.0.0.1.
"""

from collections.abc import AsyncIterator

from aiohttp import web

from compose.lab.cloud import metadata, openapi
from compose.lab.cloud.cloud import Cloud
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.faults import Fault
from compose.lab.cloud.core.model import Instance
from compose.lab.cloud.world import Fabric, NullFabric

__all__ = ["CLOUD", "Account", "Cloud", "Fabric", "Fault", "NullFabric", "build_app"]

CLOUD = web.AppKey("cloud", Cloud)
"""Where the application keeps the cloud that it serves."""


def build_app(
    account: Account, fabric: Fabric | None = None, *, metadata_for: str | None = None, token_required: bool = False
) -> web.Application:
    """One application that is the whole cloud; it runs while the application does.

    `metadata_for`: instance id; None: found by the source address, as on the fabric.
    """
    cloud = Cloud(account, fabric or NullFabric())

    def fixed(request: web.Request) -> Instance | None:
        return account.instances.get(metadata_for or "")

    async def running(app: web.Application) -> AsyncIterator[None]:
        async with cloud:
            yield

    app = web.Application()
    app[CLOUD] = cloud
    app.cleanup_ctx.append(running)
    app.add_routes(openapi.routes(cloud))
    who = fixed if metadata_for else metadata.by_source(cloud)
    app.add_routes(metadata.routes(cloud, who, token_required=token_required))
    return app
