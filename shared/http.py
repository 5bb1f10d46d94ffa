"""The HTTP face of a service, on loopback: /healthz, /readyz, /state, /metrics, and pages of the service's own."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from shared import log as logs
from shared.dump import dump, dump_pretty
from shared.errors import Refused
from shared.health import Health
from shared.metrics import computed_gauge
from shared.reload import STATUS

log = logs.get(__name__)


class HttpFace:
    """An async context manager; serves from entry to exit.

    `port` 0 takes any free one; `.port` tells which after entry. `state` gives what /state shows, without secrets:
    anything that `shared.dump` can show. It is called on the event loop, so it sees one moment. `before_metrics` is
    awaited at each scrape, for figures that somebody else has.
    """

    def __init__(
        self,
        *,
        name: str,
        host: str = "127.0.0.1",
        port: int,
        health: Health,
        state: Callable[[], object],
        registry: CollectorRegistry,
        routes: Sequence[web.RouteDef] = (),
        before_metrics: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.host = host
        self.port = port
        self._health = health
        self._state = state
        self._registry = registry
        self._before_metrics = before_metrics
        self._configuration = STATUS.get()
        if (configuration := self._configuration) is not None:
            computed_gauge(
                registry,
                "terway_configuration_rejected",
                "1: what the files or the cluster say now is not in force; /state says why",
                lambda: [((), float(bool(configuration.problems)))],
            )
        app = web.Application(middlewares=[_errors_as_json])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/state", self._show_state),
                web.get("/metrics", self._metrics),
                *routes,
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise Refused(
                f"{self.name}: cannot serve HTTP at {self.host}:{self.port}: {error.strerror or error}"
            ) from error
        self.port = self._runner.addresses[0][1]
        log.info("http_serving", host=self.host, port=self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        problems = self._health.live()
        return _json({"service": self.name, "live": not problems, "problems": problems}, 503 if problems else 200)

    async def _readyz(self, request: web.Request) -> web.Response:
        missing = self._health.ready()
        return _json({"service": self.name, "ready": not missing, "missing": missing}, 503 if missing else 200)

    async def _show_state(self, request: web.Request) -> web.Response:
        state = self._state()
        if self._configuration is not None:
            shown = msgspec.structs.asdict(state) if isinstance(state, msgspec.Struct) else state
            if isinstance(shown, Mapping):
                state = {**shown, "configuration": self._configuration}
        return web.Response(body=dump_pretty(state), content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._before_metrics is not None:
            await self._before_metrics()
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"error": error.reason, "path": request.path}, error.status)
    except Exception:
        log.exception("http_bug", path=request.path)
        return _json({"error": "a bug; see the log", "path": request.path}, 500)


def _json(value: object, status: int) -> web.Response:
    return web.Response(body=dump(value) + b"\n", status=status, content_type="application/json")
