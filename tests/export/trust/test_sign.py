"""Signatures: by whose key, of which files; and what is said where the library is missing."""

import json
import shutil
import sys
from pathlib import Path

import damage as d
import pytest

from edgecmd.cli import export as command
from edgecmd.core.errors import ConfigError
from export.documents.sign import sign_bundle, signed_digests, verify_signature
from export.trust.checks import TrustError, verify_bundle


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs of keys, and one of a curve that is not supported: name to (private, public)."""
    pytest.importorskip("model_signing.signing", reason="needs the extra 'sign'")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder, pairs = tmp_path_factory.mktemp("keys"), {}
    for name, curve in (("mine", ec.SECP256R1()), ("theirs", ec.SECP384R1()), ("bitcoin", ec.SECP256K1())):
        key = ec.generate_private_key(curve)
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        pairs[name] = (private, public)
    return pairs


@pytest.fixture
def signed(simple, tmp_path, keys):
    """A signed copy of a bundle, in a folder of another name than the one it was signed in."""
    folder = Path(shutil.copytree(simple, tmp_path / "made"))
    assert sign_bundle(folder, keys["mine"][0]) == folder / "bundle.sig"
    return folder.rename(tmp_path / "received")


def fault_of(folder, **options):
    return str(verify_bundle(folder, **options).error)


def signature_state(folder, **options):
    verdict = verify_bundle(folder, **options)
    assert verdict.passed
    return next(check.state for check in verdict.checks if check.name == "signature")


def test_the_owner_of_the_key_is_known_with_the_key_only(signed, keys):
    assert signature_state(signed, pub=keys["mine"][1]) == "ok"
    assert signature_state(signed) == "warning"
    assert "was not made with the key of" in fault_of(signed, pub=keys["theirs"][1])


def test_a_signature_lists_names_and_digests_and_no_path(signed, tmp_path):
    lines = (signed / "SHA256SUMS").read_text().splitlines()
    sums = {line[66:]: line[:64] for line in lines}
    digests = signed_digests(signed / "bundle.sig")
    assert {name: digest for name, digest in digests.items() if name != "SHA256SUMS"} == sums
    from base64 import b64decode

    payload = json.loads((signed / "bundle.sig").read_text())["dsseEnvelope"]["payload"]
    assert str(tmp_path).encode() not in b64decode(payload)


def test_whatever_is_changed_after_signing_is_found_with_remade_sums(signed, keys):
    d.on_json("labels.json", lambda labels: ["a", "b", "c"], fit=d.remake)(signed, signed)
    d.properties(classes='["a", "b", "c"]')(signed, signed)
    d.on_json("report.json", lambda report: report.update(classes=["a", "b", "c"]))(signed, signed)
    for options in ({"pub": keys["mine"][1]}, {}):
        assert "bundle.sig was made for other files" in fault_of(signed, **options)
    (signed / "bundle.sig").unlink()
    # Without a signature nothing contradicts the new names: this is what signatures are for.
    assert fault_of(signed) == "None"
    assert "has no bundle.sig" in fault_of(signed, pub=keys["mine"][1])


def test_a_signature_of_another_bundle_is_refused(signed, other, tmp_path, keys):
    other = Path(shutil.copytree(other, tmp_path / "other"))
    sign_bundle(other, keys["mine"][0])
    shutil.copy(other / "bundle.sig", signed / "bundle.sig")
    for options in ({"pub": keys["mine"][1]}, {}):
        assert "made for other files" in fault_of(signed, **options)


def test_a_forged_list_is_refused(signed, keys):
    """The list of files is edited to fit, but the signature under it stays."""
    from base64 import b64decode, b64encode

    d.on_json("labels.json", lambda labels: labels, fit=d.remake)(signed, signed)
    record = json.loads((signed / "bundle.sig").read_text())
    statement = json.loads(b64decode(record["dsseEnvelope"]["payload"]))
    import hashlib

    for resource in statement["predicate"]["resources"]:
        resource["digest"] = hashlib.sha256((signed / resource["name"]).read_bytes()).hexdigest()
    record["dsseEnvelope"]["payload"] = b64encode(json.dumps(statement).encode()).decode()
    (signed / "bundle.sig").write_text(json.dumps(record))
    assert signature_state(signed) == "warning"
    assert "was not made with the key of" in fault_of(signed, pub=keys["mine"][1])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"dsseEnvelope": {"payload": "!"}}',
        b'{"dsseEnvelope": {"payload": "e30="}}',
        b'{"dsseEnvelope": {"payload": 3}}',
    ],
)
def test_a_broken_signature_is_refused(signed, keys, content):
    (signed / "bundle.sig").write_bytes(content)
    for options in ({"pub": keys["mine"][1]}, {}):
        message = fault_of(signed, **options)
        assert "bundle.sig" in message
        assert "bundle again" in message


def test_keys_that_cannot_be_used_are_refused_and_the_older_signature_stays(signed, keys, tmp_path):
    before = (signed / "bundle.sig").read_bytes()
    for key in (tmp_path / "gone.pem", keys["mine"][1], keys["bitcoin"][0]):
        with pytest.raises(ConfigError, match="cannot be signed with"):
            sign_bundle(signed, key)
    for key in (tmp_path / "gone.pub", keys["mine"][0], keys["bitcoin"][1]):
        with pytest.raises(ConfigError, match="not a usable public key"):
            verify_bundle(signed, pub=key)
    assert (signed / "bundle.sig").read_bytes() == before


def test_the_command_signs_what_passes_and_nothing_else(signed, keys, capsys):
    before = (signed / "bundle.sig").read_bytes()
    d.on_json("labels.json", lambda labels: ["a", "b", "c"], fit=d.remake)(signed, signed)
    with pytest.raises(TrustError, match="3 labels"):
        command.sign(signed, key=keys["mine"][0])
    assert (signed / "bundle.sig").read_bytes() == before
    d.properties(classes='["a", "b", "c"]')(signed, signed)
    d.on_json("report.json", lambda report: report.update(classes=["a", "b", "c"]))(signed, signed)
    command.sign(signed, key=keys["theirs"][0])
    assert "Signed: " in capsys.readouterr().out
    verify_signature(signed, keys["theirs"][1])


def test_without_the_library_the_extra_is_named(simple, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    folder = Path(shutil.copytree(simple, tmp_path / "bundle"))
    for call in (
        lambda: sign_bundle(folder, tmp_path / "key"),
        lambda: verify_bundle(folder, pub=tmp_path / "key"),
    ):
        with pytest.raises(ConfigError, match=r"pip install 'edgecmd\[sign\]'"):
            call()
