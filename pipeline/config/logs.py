"""Keep secrets out of logs: addresses in messages and tracebacks are shown as in error messages.

The logger ``pipeline`` does so in every process. In processes that only this program uses (the
command line and its workers), so do all loggers, warnings and tracebacks of uncaught errors,
because libraries log the addresses that they request and name them in their errors.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from typing import Any

from pipeline.redaction import redacted

FORMATTER = logging.Formatter()


class Redacting(logging.Filter):
    """Redacts addresses in log records; lets every record through."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record; always True."""
        redact(record)
        return True


def logger() -> logging.Logger:
    """The logger of this program, which redacts."""
    found = logging.getLogger("pipeline")
    if not any(isinstance(each, Redacting) for each in found.filters):
        found.addFilter(Redacting())
    return found


def redact(record: logging.LogRecord) -> None:
    """Redact a record's message, traceback and stack before any handler formats it."""
    try:
        message = record.getMessage()
    except (TypeError, ValueError, LookupError):  # logging would print the arguments unredacted
        message = f"{record.msg} {record.args!r}"
    record.msg = redacted(message)
    record.args = ()
    if record.exc_info:
        record.exc_text, record.exc_info = FORMATTER.formatException(record.exc_info), None
    record.exc_text = record.exc_text and redacted(record.exc_text)
    record.stack_info = record.stack_info and redacted(record.stack_info)


def redact_all() -> None:
    """Redact all loggers, warnings and uncaught errors of this process. Call it only in a process
    that no other program shares.
    """
    make = logging.getLogRecordFactory()
    warn = warnings.formatwarning

    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        redact(record)
        return record

    def warned(*args: Any, **kwargs: Any) -> str:
        return redacted(warn(*args, **kwargs))

    if getattr(make, "__module__", None) != __name__:
        logging.setLogRecordFactory(made)
        warnings.formatwarning = warned
        sys.excepthook = _uncaught
        threading.excepthook = lambda found: _uncaught(
            found.exc_type, found.exc_value, found.exc_traceback
        )


def _uncaught(kind: type[BaseException], error: BaseException | None, where: Any) -> None:
    """Print an uncaught error as Python does, redacted."""
    if kind is SystemExit:  # how a thread may end
        return
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, where))))
