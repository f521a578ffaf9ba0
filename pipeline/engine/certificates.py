"""Who may talk to a cluster of our own: whoever holds a key that is made when it starts, and never
lies in a file.

Whatever listens on the loopback, all users of the machine can reach, and a scheduler runs what it
is sent. So own clusters speak TLS in both directions, with a certificate that vouches for itself.
Dask's own (``Security.temporary``) has a key of RSA, which takes 30 to 50 ms to find; one of an
elliptic curve takes 0.1 ms, and the library that makes it 45 ms to import.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

NAME = "tilewise"
DAYS = 365
"""How long a cluster may live."""


def security() -> Any:
    """What Dask takes to let in those processes alone that were given it: a
    ``distributed.Security``.
    """
    from distributed import Security

    key, certificate = _made()
    roles = {
        f"tls_{role}_{what}": text
        for role in ("client", "scheduler", "worker")
        for what, text in (("key", key), ("cert", certificate))
    }
    return Security(require_encryption=True, tls_ca_file=certificate, **roles)  # type: ignore[no-untyped-call]


def _made() -> tuple[str, str]:
    """A key and a certificate that it signed, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(
            now - dt.timedelta(days=1)
        )  # clocks of one machine agree, and may be set back
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret.decode(), certificate.public_bytes(Encoding.PEM).decode()
