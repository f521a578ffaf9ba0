"""What this program says in a log, without secrets: addresses in messages and tracebacks are shown
as in errors.

The logger ``pipeline`` does so wherever it is used. In processes that are ours alone, of the
command line and of our workers, so do all loggers, warnings, and tracebacks of errors that nobody
caught: libraries log what they ask, and errors of theirs name it.
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
    """Shows addresses in what is logged without what signs them; lets everything through."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change what a record says: True."""
        redact(record)
        return True


def logger() -> logging.Logger:
    """The logger of this program, without secrets."""
    found = logging.getLogger("pipeline")
    if not any(isinstance(each, Redacting) for each in found.filters):
        found.addFilter(Redacting())
    return found


def redact(record: logging.LogRecord) -> None:
    """Change a record's message, traceback and stack, whatever formats it later."""
    try:
        message = record.getMessage()
    except (TypeError, ValueError, LookupError):  # logging would print its arguments as they are
        message = f"{record.msg} {record.args!r}"
    record.msg = redacted(message)
    record.args = ()
    if record.exc_info:
        record.exc_text, record.exc_info = FORMATTER.formatException(record.exc_info), None
    record.exc_text = record.exc_text and redacted(record.exc_text)
    record.stack_info = record.stack_info and redacted(record.stack_info)


def redact_all() -> None:
    """Show no secrets of any logger, warning or uncaught error of this process; of use once, in a
    process that is ours alone.
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
    """Print an error that nobody caught, as Python does."""
    if kind is SystemExit:  # by which a thread may end
        return
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, where))))
