"""A CA of the tests, which signs certificates of servers.

They have the key identifiers and the key usage that Python 3.13 requires by default (VERIFY_X509_STRICT).
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

# Certificates and lists of revoked ones, and nothing else.
SIGNS = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


class Authority:
    """A CA, which signs certificates of servers."""

    def __init__(self, name: str) -> None:
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name(name)
        certificate = self._certificate(self._name, self._key)
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        certificate = certificate.add_extension(constraint, critical=True)
        signed = certificate.add_extension(SIGNS, critical=True).sign(self._key, hashes.SHA256())
        self.certificate = signed.public_bytes(Encoding.PEM).decode()

    def server(self, host: str) -> dict[str, str]:
        """What the Secret of a server has, which is known by a name or an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_host(host)])
        certificate = self._certificate(_name("server"), key).add_extension(names, critical=False)
        signed = certificate.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        stored = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {"tls.crt": signed.decode(), "tls.key": stored.decode()}

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuers = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        start = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        return (
            start.public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(own, critical=False)
            .add_extension(issuers, critical=False)
        )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
