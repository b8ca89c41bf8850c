"""Who signs for a party: the node's registered key, or in a simulation a name that proves nothing."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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
