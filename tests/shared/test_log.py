"""Log lines: one JSON object each, whatever is in them, with the request that they belong to."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import log as logs
from shared.secret import Secret


class Lines(io.StringIO):
    """What was logged, line by line."""

    @property
    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Logging as a service configures it, written here instead of to stderr, and undone afterwards."""
    root, before, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    root.handlers[:] = []
    stream = Lines()
    logs.configure(service="ipam", level="info", stream=stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = True


log = logs.get("shared.test")


def test_a_line(lines: Lines) -> None:
    log.info("address_granted", pod="ns/web", address="10.0.0.1", path=Path("/x"), key=Secret("hunter2"))
    [line] = lines.parsed
    assert line.pop("ts")[-1] == "Z"
    assert line == {
        "level": "info",
        "service": "ipam",
        "event": "address_granted",
        "logger": "shared.test",
        "pod": "ns/web",
        "address": "10.0.0.1",
        "path": "/x",
        "key": "***",
    }


def test_time_is_utc_with_milliseconds(lines: Lines) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "e", None, None)
    record.created, record.msecs = 1_700_000_000.0, 42.9
    assert json.loads(logs.JsonLines("s").format(record))["ts"] == "2023-11-14T22:13:20.042Z"


def test_levels(lines: Lines) -> None:
    for write in (log.debug, log.info, log.warning, log.error):
        write("e")
    assert [line["level"] for line in lines.parsed] == ["info", "warning", "error"]


def test_an_exception_is_one_line(lines: Lines) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed", pod="a")
    [line] = lines.parsed
    assert line["exception"] == "ValueError: two\nlines"
    assert line["traceback"].startswith("Traceback") and "test_log.py" in line["traceback"]


def test_fields_do_not_replace_what_every_line_has(lines: Lines) -> None:
    log.info("e", level="x", service="y", ts="z", event="w", logger="v")
    [line] = lines.parsed
    assert (line["level"], line["level_"], line["event"], line["event_"]) == ("info", "x", "e", "w")


async def test_the_request_id_follows_a_task_and_no_other(lines: Lines) -> None:
    async def serve(request: str) -> None:
        logs.request_id.set(request)
        await asyncio.sleep(0)
        log.info("served", asked=request)

    await asyncio.gather(serve("a"), serve("b"))
    log.info("idle")
    assert [line.get("request_id") for line in lines.parsed] == ["a", "b", None]


def test_foreign_messages_have_the_same_shape(lines: Lines) -> None:
    logging.getLogger("aiohttp").warning("lost %d of %s", 3, "them")
    logging.getLogger("aiohttp.access").info("chatter")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    first, second = lines.parsed
    assert (first["event"], first["logger"], first["service"]) == ("lost 3 of them", "aiohttp", "ipam")
    assert "old ways" in second["event"] and second["logger"] == "py.warnings"


def test_a_foreign_message_that_does_not_fit_its_arguments_is_shown_as_it_is() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "broken %d", ("text",), None)
    assert json.loads(logs.JsonLines("s").format(record))["event"] == "'broken %d' % ('text',)"


def test_a_disabled_level_formats_nothing(lines: Lines) -> None:
    class Costly:
        def __repr__(self) -> str:
            raise AssertionError("looked at")

    log.debug("e", costly=Costly())
    assert lines.getvalue() == ""


def test_configuring_again_starts_afresh(lines: Lines) -> None:
    second = Lines()
    logs.configure(service="policy", level="debug", stream=second)
    log.debug("e")
    assert lines.getvalue() == "" and second.parsed[0]["service"] == "policy"


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(KeyError):
        logs.configure(service="x", level="loud")


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text() | st.binary() | st.floats() | st.builds(object)))
def test_any_event_is_one_line_of_json(event: str, fields: dict[str, Any]) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, event, None, None)
    record.fields = fields
    text = logs.JsonLines("s").format(record)
    assert "\n" not in text and json.loads(text)["service"] == "s"


def test_request_ids_differ() -> None:
    assert len({logs.new_request_id() for _ in range(100)}) == 100
