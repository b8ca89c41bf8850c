"""Keys, masks, shares and their envelopes: every primitive of the protocol, from libraries alone.

X25519, HKDF-SHA256, ChaCha20 and ChaCha20-Poly1305 are pyca/cryptography's, Shamir's shares over GF(2^128)
PyCryptodome's. A secret is 16 bytes, so that one share of Shamir's holds it.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgecmd.privacy.secure_sum.terms import refused

SECRET_BYTES = 16
KEY_BYTES = 32
WORD = np.dtype("<u4")


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets:
    """What a party draws for one round, and forgets with it.

    Attributes:
        itself: Seed of the mask that the party adds alone.
        pairs: Seed of the key that it agrees on masks with.
        seal: Seed of the key that it agrees on envelopes with; nobody else ever gets a share of it.
    """

    itself: bytes
    pairs: bytes
    seal: bytes

    @classmethod
    def drawn(cls) -> "Secrets":
        """From the operating system."""
        return cls(
            itself=os.urandom(SECRET_BYTES), pairs=os.urandom(SECRET_BYTES), seal=os.urandom(SECRET_BYTES)
        )

    @property
    def commitment(self) -> bytes:
        """Shows later whether shares restored ``itself``."""
        return hashlib.sha256(b"self mask" + self.itself).digest()


def derived(secret: bytes, *purpose: bytes) -> bytes:
    """32 bytes for one purpose; each part of it counts with its length."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (b"edgecmd secure sum 1", *purpose))
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def private_key(seed: bytes) -> X25519PrivateKey:
    """The key pair of a seed."""
    return X25519PrivateKey.from_private_bytes(derived(seed, b"key pair"))


def public_bytes(seed: bytes) -> bytes:
    """The public half of the key pair of a seed."""
    return private_key(seed).public_key().public_bytes_raw()


def agreed(seed: bytes, public: bytes, *purpose: bytes) -> bytes:
    """What two parties derive alike, each from its own seed and the other's public key.

    Raises:
        PrivacyError: The public key is none, or one of the few that agree with everybody.
    """
    try:
        shared = private_key(seed).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise refused(f"A public key of the round is none: {error}.") from error
    return derived(shared, *purpose)


def stream(key: bytes, dim: int) -> np.ndarray:
    """``dim`` uniform uint32 of a key that is used for nothing else."""
    made = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(WORD.itemsize * dim))
    return np.frombuffer(made, WORD)


def self_mask(seed: bytes, dim: int, *, cohort: bytes) -> np.ndarray:
    """The mask that a party adds alone."""
    return stream(derived(seed, b"self mask", cohort), dim)


def pair_mask(seed: bytes, public: bytes, dim: int, *, own: str, other: str, cohort: bytes) -> np.ndarray:
    """The mask of a pair as ``own`` adds it; ``other`` adds the same with the other sign, so they cancel."""
    mask = stream(agreed(seed, public, b"pair mask", cohort), dim)
    return mask if own < other else np.negative(mask)


def split(secret: bytes, *, holders: tuple[str, ...], threshold: int) -> dict[str, bytes]:
    """A share of ``secret`` for each holder, of which ``threshold`` restore it."""
    if threshold == 1:
        return dict.fromkeys(holders, secret)
    shares = Shamir.split(threshold, len(holders), secret, ssss=False)
    return {holder: share for holder, (_, share) in zip(holders, shares, strict=True)}


def restored(shares: Mapping[str, bytes], *, holders: tuple[str, ...], threshold: int) -> bytes | None:
    """The secret that shares of some of the ``holders`` restore; None for too few of them."""
    if len(shares) < threshold:
        return None
    chosen = sorted(shares)[:threshold]
    if threshold == 1:
        return shares[chosen[0]]
    return Shamir.combine([(holders.index(one) + 1, shares[one]) for one in chosen], ssss=False)


def sealed(seed: bytes, public: bytes, shares: bytes, *, sender: str, receiver: str, cohort: bytes) -> bytes:
    """Shares in an envelope that the receiver alone can open, as this sender's to it in this round."""
    key, label = _envelope(seed, public, sender=sender, receiver=receiver, cohort=cohort)
    # A key seals one envelope: it is made of fresh keys, both names and the round.
    return ChaCha20Poly1305(key).encrypt(bytes(12), shares, label)


def opened(
    seed: bytes, public: bytes, envelope: bytes, *, sender: str, receiver: str, cohort: bytes
) -> bytes:
    """What is in an envelope.

    Raises:
        PrivacyError: It was changed, or is another round's, another sender's, or another receiver's; or the
            sender was shown another cohort.
    """
    key, label = _envelope(seed, public, sender=sender, receiver=receiver, cohort=cohort)
    try:
        found = ChaCha20Poly1305(key).decrypt(bytes(12), envelope, label)
    except InvalidTag as error:
        raise refused(
            f"The shares that came as {sender}'s were changed, are another round's or another party's, or"
            f" {sender} was shown another cohort."
        ) from error
    if len(found) != 2 * SECRET_BYTES:
        raise refused(f"{sender} sent {len(found)} bytes of shares; allowed are {2 * SECRET_BYTES}.")
    return found


def _envelope(
    seed: bytes, public: bytes, *, sender: str, receiver: str, cohort: bytes
) -> tuple[bytes, bytes]:
    names = (sender.encode(), receiver.encode())
    return agreed(seed, public, b"envelope", *names, cohort), b"\0".join((cohort, *names))


def same(one: bytes, other: bytes) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)
