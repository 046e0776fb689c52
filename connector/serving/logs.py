"""The service's log: JSON, one line for each thing that happened, on stderr.

    {"timestamp": "2026-11-22T18:54:00.123456Z", "level": "info", "event": "request", "route": "/datasets/{id}", ...}

Never in it: texts of documents, keys, signatures, and what a client wrote into a query or a body. What libraries
log goes the same way.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol, TextIO

import structlog

LIBRARIES: Final = ("uvicorn.error", "python_multipart", "asyncio", "opentelemetry", "watchfiles")


class Log(Protocol):
    """Where a line goes; the keywords are its fields."""

    def debug(self, event: str, /, **fields: object) -> object: ...

    def info(self, event: str, /, **fields: object) -> object: ...

    def warning(self, event: str, /, **fields: object) -> object: ...

    def error(self, event: str, /, **fields: object) -> object: ...


def log_to(stream: TextIO, level: str = "info") -> Log:
    """Make a log of a stream, of all from a level on. Lines of several threads do not mix."""
    log: Log = structlog.wrap_logger(
        _Stream(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    return log


def trace_of(error: BaseException) -> str:
    """Say where an error and its causes come from, but not in their words, which may quote a document."""
    found: traceback.TracebackException | None = traceback.TracebackException.from_exception(error)  # minds circles
    lines: list[str] = []
    while found is not None:
        lines += [*found.stack.format(), f"{found.exc_type.__qualname__ if found.exc_type else ''}\n"]
        found = found.__cause__ or found.__context__
    return "".join(lines)


@contextmanager
def libraries_in(log: Log) -> Iterator[None]:
    """Write what the libraries log into ours, for as long as the service runs."""
    handler = _Lines(log)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if logger.name == "uvicorn.error" else logging.ERROR)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _Stream:
    """Writes whole lines, one at a time. When nobody reads the log any more, the service goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def info(self, line: str) -> None:
        with self._lock, suppress(OSError, ValueError):  # a closed pipe, a closed file
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = warning = error = info


class _Lines(logging.Handler):
    """Each record of the standard library's logging, as a line of ours."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.error if record.levelno >= logging.ERROR else self._log.info
        write(record.getMessage().strip(), logger=record.name, exc_info=record.exc_info)
