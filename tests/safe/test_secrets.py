"""What signs an address and whose it is shows nowhere: in no message, log, traceback or warning,
whatever characters it is of.
"""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import pipeline
from pipeline.config import logs
from pipeline.errors import JobError, SourceError
from pipeline.redaction import redacted
from pipeline.storage.locations import checked

SPACES = " \t\r\n\f\v"
SECRETS = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters=SPACES), min_size=8, max_size=30
)
"""Any characters but the spaces that end an address; longer than what may stand in a message by
chance.
"""
AWKWARD = st.text(st.sampled_from("@:/?#,;')(%&=.[]\"ab1"), min_size=8, max_size=30)
MESSAGES = st.sampled_from(
    [
        "{}",
        "{} cannot be read",
        "cannot read '{}'",
        "('{}', 5)",
        "<{}>",
        '{{"url": "{}", "next": 1}}',
        "see {}; or not",
        "/vsicurl/{}: 403",
        "a\n{}\nb",
    ]
)
HOSTS = st.sampled_from(
    ["host.example.org", "localhost:9000", "bucket", "10.0.0.1:443", "[::1]:80"]
)
PATHS = st.sampled_from(["/data/scene.tif", "/a/b c.tif".replace(" ", "%20"), "/µ/z.zarr"])


def built(host: str, path: str, user: str = "", query: str = "", fragment: str = "") -> str:
    return f"https://{f'me:{user}@' if user else ''}{host}{path}{f'?sig={query}' if query else ''}{f'#{fragment}' if fragment else ''}"  # noqa: E501


@given(st.one_of(SECRETS, AWKWARD), MESSAGES, HOSTS, PATHS)
@example("pa/ss@word,'x;)", "cannot read '{}'", "host.example.org", "/data/scene.tif")
@example("12/34567890", "{}", "bucket", "/data/scene.tif")
@example("a?b#c/d@e:f", "{}", "bucket", "/data/scene.tif")
def test_a_password_never_shows(secret: str, message: str, host: str, path: str) -> None:
    """A password of any characters is gone from any message, alone and beside a signature that is
    the same.
    """
    assume(secret not in message + host + path)
    for address in (built(host, path, secret), built(host, path, secret, secret, secret)):
        told = redacted(message.format(address))
        assert secret not in told
        assert "://…" in told


@given(st.one_of(SECRETS, AWKWARD), MESSAGES, HOSTS, PATHS)
def test_a_signature_never_shows(secret: str, message: str, host: str, path: str) -> None:
    """A query and a fragment of any characters are gone; whose address it is, and what it names,
    stays to be read.
    """
    assume(secret not in message + host + path and ":" not in host)
    for address in (
        built(host, path, query=secret),
        built(host, path, fragment=secret),
        built(host, path, query=secret, fragment=secret),
    ):
        told = redacted(message.format(address))
        assert secret not in told
        assert f"https://{host}{path}?…" in told


@given(
    st.text(
        st.characters(exclude_categories=("Cs",), exclude_characters=SPACES + "@?#"), min_size=8
    ),
    MESSAGES,
    HOSTS,
    PATHS,
)
def test_host_and_path_stay(secret: str, message: str, host: str, path: str) -> None:
    """Beside a password with slashes, colons and quotes, and a signature, the host and the path
    stay to be read.
    """
    assume(secret not in message + host + path)
    assert f"https://…@{host}{path}?…" in redacted(
        message.format(built(host, path, secret, query=secret))
    )


@given(MESSAGES, HOSTS, PATHS, st.sampled_from(["https", "s3", "gs", "tls", "file"]))
def test_an_address_without_secrets_stays_as_it_is(
    message: str, host: str, path: str, scheme: str
) -> None:
    """What has no user, query or fragment is not changed, and what was redacted is not changed
    again.
    """
    text = message.format(f"{scheme}://{host}{path}")
    assert redacted(text) == text
    secret = redacted(message.format(built(host, path, "secret/word", "signature")))
    assert redacted(secret) == secret


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://me:pa/ss@host", "https://…@host"),
        ("https://me:pa ss@host/x failed", "https://…@host/x failed"),
        ("https://token@host/x", "https://…@host/x"),
        ("https://host.org/tiles@2x/a.tif", "https://host.org/tiles@2x/a.tif"),
        ("https://a.org/x,https://me:pw@b.org/y?s=1", "https://a.org/x,https://…@b.org/y?…"),
        ("see https%3A%2F%2Fme%3Apw%40h%2Fp%3Fsig%3DS.", "see https%3A%2F%2F…%40h%2Fp?…"),
        ("/vsicurl?max_retry=3&url=https%3A%2F%2Fh%2Fp%3Fsig%3DS failed", "/vsicurl?… failed"),
        ("https://host: mail me@x.org", "https://host: mail me@x.org"),
        ("https://me:12/a?x@host/p", "https://…"),
        ("https://[x/y@z?z", "https://…@z?…"),
        ("50% of a://b", "50% of a://b"),
    ],
)
def test_awkward_addresses(text: str, told: str) -> None:
    """Addresses that can be read in two ways, that hold others, or that are none."""
    assert redacted(text) == told


@pytest.mark.parametrize(
    "address",
    [
        "https://me:pa/ss@host/a.tif",
        "https://me:pa?ss@host/a.tif",
        "s3://key:se/cret@bucket/a.tif",
        "https://me@host/a.tif",
    ],
)
def test_credentials_in_an_address_are_refused(address: str) -> None:
    """A name or a password in an address is seen wherever its characters put it, and refused
    without showing it.
    """
    with pytest.raises(
        JobError, match=r"://…@\w+/a\.tif holds credentials; allowed: in the environment only"
    ):
        checked(address)
    with pytest.raises(JobError, match="is no address: Port"):
        checked("https://host:port/a.tif")


def refused(what: str) -> None:
    """Raise what a library raises."""
    raise OSError(what)


@given(st.one_of(SECRETS, AWKWARD), MESSAGES)
def test_nothing_shows_in_the_log(secret: str, message: str) -> None:
    """Messages, their arguments and tracebacks of causes, at DEBUG too, in the logger of this
    program.
    """
    address = built("host.example.org", "/scene.tif", query=secret)
    told = io.StringIO()
    logger = logs.logger()
    handler = logging.StreamHandler(told)
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        try:
            try:
                refused(message.format(address))
            except OSError as error:
                raise SourceError("it cannot be read") from error
        except SourceError:
            logger.debug("failed at %s: %r", address, address, exc_info=True, stack_info=True)
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
    assert f"sig={secret}" not in told.getvalue()
    assert "host.example.org/scene.tif" in told.getvalue()
    assert "Traceback" in told.getvalue()


def fails(secret: str, _item: int) -> None:
    """An item that a library fails at."""
    logging.getLogger("library").debug(
        "GET %s", built("host.example.org", "/scene.tif", query=secret)
    )
    raise OSError(built("host.example.org", "/scene.tif", "pa/ss", secret))


@pytest.mark.parametrize("secret", ["se,cret';)x", "plain-secret"])
def test_nothing_shows_in_what_an_item_tells(secret: str, caplog: pytest.LogCaptureFixture) -> None:
    """The error and the traceback of an item that failed, and the log of it, hold no secret."""
    with caplog.at_level(logging.DEBUG, "pipeline"), pipeline.local() as engine:
        (outcome,) = engine.run(fails, secret, [3])
    for told in (outcome.error, outcome.traceback, caplog.text):
        assert told
        assert secret not in told
        assert "host.example.org/scene.tif?…" in told


SCRIPT = """
    import logging, sys, threading, warnings
    logging.basicConfig(level=logging.DEBUG)
    {begin}
    address = "https://me:pa/ss@host.example.org/scene.tif?sig=" + sys.argv[1]
    logging.getLogger("library").debug("GET %s", address)
    logging.getLogger("another.library").warning("bad arguments %d", address)
    try:
        raise OSError(address)
    except OSError:
        logging.getLogger("library").exception("failed")
    warnings.warn("slow: " + address)
    thread = threading.Thread(target=lambda: open(address))
    thread.start()
    thread.join()
    raise ValueError(address)
"""


@pytest.mark.parametrize(
    "begin",
    [
        "from pipeline.config import logs; logs.redact_all(); logs.redact_all()",
        "from pipeline.engine.own_cluster import dask_setup; dask_setup(None)",
    ],
)
def test_nothing_shows_of_other_libraries(begin: str) -> None:
    """In a process of ours: loggers of any library, warnings, threads and errors that nobody
    caught.
    """
    secret = "se,cret';)x@y"
    code = textwrap.dedent(SCRIPT.format(begin=begin))
    done = subprocess.run(
        [sys.executable, "-c", code, secret], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert secret not in done.stderr
    assert "pa/ss" not in done.stderr
    for told in (
        "GET https://…@host.example.org/scene.tif?…",
        "UserWarning: slow: https://…@",
        "ValueError: https://…@",
        "FileNotFoundError",
    ):
        assert told in done.stderr


def test_debug_shows_no_secret(tmp_path: Any) -> None:
    """`--debug` shows where an error was raised, and what caused it, without what signs
    an address.
    """
    secret = "se,cret';)x"
    code = """
        import sys
        from pipeline import __main__
        def about(address):
            raise OSError(f"GET {address}")
        sys.argv = ["tilewise", "info", "https://localhost/scene.tif?sig=" + sys.argv[1], "--debug"]
        import pipeline.sources.gdal as datasets
        from pipeline.errors import SourceError
        def reached(address, level):
            try:
                about(address)
            except OSError as error:
                raise SourceError(f"{address} cannot be reached") from error
        datasets._reached = reached
        __main__.main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), secret],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert secret not in done.stdout + done.stderr
    assert "OSError: GET https://localhost/scene.tif?…" in done.stderr
    assert "tilewise: https://localhost/scene.tif?… cannot be reached" in done.stderr


def test_a_job_is_written_down_without_secrets() -> None:
    """Addresses among a segmenter's options and in the output's, too, are recorded without what
    signs them.
    """
    secret = "se,cret';)x"
    grown = pipeline.RegionGrowing(
        seeds=f"https://host.example.org/seeds.tif?sig={secret}", tolerance=5
    )
    job = pipeline.Job(
        source=f"https://host.example.org/a.tif?sig={secret}",
        segmenters={"it": grown},
        output={"path": "out"},
    )
    assert secret not in str(job.plain())
    assert job.plain()["segmenters"]["it"]["seeds"] == "https://host.example.org/seeds.tif?…"
