"""Certificates and keys of a federation: an authority of its own, the server's certificate, a key per site.

X.509 and keys by pyca/cryptography. A node of Flower signs with an EC key on P-384; the server has the
public half.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgecmd.core.errors import ConfigError

PEM, OPENSSH = serialization.Encoding.PEM, serialization.Encoding.OpenSSH
LOOPBACK = ("localhost", "127.0.0.1")
# A clock that is a little behind must not refuse a certificate of today.
EARLIER = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A key and what the authority says of it, as PEM.

    Attributes:
        key: The private key; whoever has it is the server, or the authority.
        certificate: The certificate.
    """

    key: bytes
    certificate: bytes


def make_authority(name: str, *, days: int) -> Signed:
    """A certificate authority that signs this federation's server alone.

    Args:
        name: Of the federation.
        days: How long it is valid.
    """
    key = _new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgecmd federation {name}")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _begun(subject, subject, key.public_key(), days=days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return Signed(key=private_pem(key), certificate=certificate.public_bytes(PEM))


def make_server_certificate(authority: Signed, host: str, *, days: int) -> Signed:
    """A certificate for the server under ``host`` and, for what runs beside it, loopback.

    Args:
        authority: Of the federation.
        host: Host name or IP address that the sites connect to.
        days: How long it is valid; it ends with the authority's at the latest.

    Raises:
        ConfigError: The authority's files are no key and certificate of one another, or it has expired.
    """
    ca_key, ca = read_signed(authority)
    key = _new_key()
    names = [_general_name(one) for one in dict.fromkeys((host, *LOOPBACK))]
    left = ca.not_valid_after_utc - datetime.now(UTC)
    if left <= timedelta(0):
        raise ConfigError(
            f"The authority's certificate ended on {ca.not_valid_after_utc:%Y-%m-%d}. Make a new federation"
            " (`edgecmd deploy init` into another folder); every site then needs its new ca.crt."
        )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    certificate = (
        _begun(subject, ca.subject, key.public_key(), days=days, most=left)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA384())
    )
    return Signed(key=private_pem(key), certificate=certificate.public_bytes(PEM))


def make_node_key() -> tuple[bytes, bytes]:
    """A new key pair of a site in OpenSSH's form: the private half, which stays there, and the public one."""
    key = _new_key()
    private = key.private_bytes(PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    return private, key.public_key().public_bytes(OPENSSH, serialization.PublicFormat.OpenSSH)


def read_signed(signed: Signed) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Key and certificate as objects.

    Raises:
        ConfigError: One of them is damaged, or they do not belong together.
    """
    try:
        key = serialization.load_pem_private_key(signed.key, password=None)
        certificate = x509.load_pem_x509_certificate(signed.certificate)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"A key or certificate is damaged: {error}. Restore it from its copy.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError("The key and the certificate do not belong together. Take both from one kit.")
    return key, certificate


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM, not encrypted: the rights of its file protect it."""
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    *,
    days: int,
    most: timedelta | None = None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    length = timedelta(days=days) if most is None else min(timedelta(days=days), most)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + length)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
