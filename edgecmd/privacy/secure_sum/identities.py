"""Who signs for a party: the node's registered key, or in a simulation a name that proves nothing."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from edgecmd.privacy.secure_sum.terms import refused

NAME_LENGTH = 32
SIGNATURE = ec.ECDSA(SHA384())


@runtime_checkable
class Identity(Protocol):
    """A party's own name, and its signature."""

    @property
    def name(self) -> str:
        """Under which the others know it."""

    def sign(self, text: bytes) -> bytes:
        """Signature of ``text``."""


@runtime_checkable
class Register(Protocol):
    """The parties that one believes."""

    def is_signed(self, name: str, text: bytes, signature: bytes) -> bool:
        """Whether ``name`` is one of them and made this signature of ``text``."""


def key_name(key: ec.EllipticCurvePublicKey) -> str:
    """Name of a registered key: the first 32 hexadecimal digits of its SHA-256."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:NAME_LENGTH]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredIdentity:
    """A node's own key, elliptic curve P-384.

    Attributes:
        key: The private key.
    """

    key: ec.EllipticCurvePrivateKey

    @property
    def name(self) -> str:
        """Made of its public key."""
        return key_name(self.key.public_key())

    def sign(self, text: bytes) -> bytes:
        """ECDSA with SHA-384."""
        return self.key.sign(text, SIGNATURE)


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedKeys:
    """The public keys that a node's owner pinned.

    Attributes:
        keys: By their names.
    """

    keys: Mapping[str, ec.EllipticCurvePublicKey]

    def is_signed(self, name: str, text: bytes, signature: bytes) -> bool:
        """Whether ``name`` is pinned and the signature is its own."""
        if name not in self.keys:
            return False
        try:
            self.keys[name].verify(signature, text, SIGNATURE)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedIdentity:
    """A client of a simulation. Anyone can sign in its name.

    Attributes:
        name: Of the client.
    """

    name: str

    def sign(self, text: bytes) -> bytes:
        """A digest, without any secret."""
        return hashlib.sha256(b"simulation\0" + self.name.encode() + b"\0" + text).digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedParties:
    """Every client of a simulation."""

    def is_signed(self, name: str, text: bytes, signature: bytes) -> bool:
        """Whether the digest fits; that proves nothing about who made it."""
        return SimulatedIdentity(name=name).sign(text) == signature


def read_identity(path: Path) -> RegisteredIdentity:
    """A node's own key from its file, in OpenSSH's form as in the kit.

    Raises:
        PrivacyError: It cannot be read, or is no key of that curve without a password.
    """
    try:
        key = load_ssh_private_key(_read(path, "own-key"), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ValueError("it is not on the elliptic curve P-384")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        told = f"own-key={str(path)!r} is no private key: {error}. Name the node.key of the kit."
        raise refused(told, "node-config") from error
    return RegisteredIdentity(key=key)


def read_pinned(path: Path) -> PinnedKeys:
    """The pinned public keys from a file with a key in OpenSSH's form on each line.

    Raises:
        PrivacyError: It cannot be read, holds no key, or a line that is none.
    """
    lines = [line for line in _read(path, "peer-keys").splitlines() if line.strip()]
    try:
        keys = [_public(line) for line in lines]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise refused(
            f"peer-keys={str(path)!r} holds a line that is no public key on P-384: {error}. Use the file of"
            " the kit.",
            "node-config",
        ) from error
    if not keys:
        raise refused(f"peer-keys={str(path)!r} holds no key. Use the file of the kit.", "node-config")
    return PinnedKeys(keys={key_name(key): key for key in keys})


def _public(line: bytes) -> ec.EllipticCurvePublicKey:
    key = load_ssh_public_key(line)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("another kind of key")
    return key


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refused(f"{key}={str(path)!r} cannot be read: {error.strerror}.", "node-config") from error
