"""TLS for our own clusters: only processes with a key that is created at start, and never written.

All users of a machine can reach what listens on its loopback interface, and a scheduler runs
whatever it is sent. So own clusters use TLS in both directions with a self-signed certificate.
Dask's own (``Security.temporary``) uses an RSA key, which takes 30 to 50 ms to create; an
elliptic-curve key takes 0.1 ms, and importing the library that creates it 45 ms.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

NAME = "tilewise"
DAYS = 365
"""Lifetime of a certificate, and so of a cluster, in days."""


def security() -> Any:
    """Create a ``distributed.Security`` that admits only the processes that have it."""
    from distributed import Security

    key, certificate = _made()
    roles = {
        f"tls_{role}_{what}": text
        for role in ("client", "scheduler", "worker")
        for what, text in (("key", key), ("cert", certificate))
    }
    return Security(require_encryption=True, tls_ca_file=certificate, **roles)  # type: ignore[no-untyped-call]


def _made() -> tuple[str, str]:
    """Create a key and its self-signed certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    # clocks of one machine agree, and may be set back
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret.decode(), certificate.public_bytes(Encoding.PEM).decode()
