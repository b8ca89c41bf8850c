"""Devices with pairs of their own in a secure sum: keys, what the owner pins, and what one pair decides."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from clients import private
from clients.app import app
from clients.identity import ASKED, MASKED
from clients.node import read_node
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import PrivacyError
from edgecmd.models.students import build_student
from edgecmd.privacy.secure_sum.adverts import Advert
from edgecmd.privacy.secure_sum.collector import Collector
from edgecmd.privacy.secure_sum.identities import key_name
from edgecmd.privacy.secure_sum.integers import decoded
from edgecmd.privacy.secure_sum.key_files import read_identity, read_pinned
from edgecmd.privacy.secure_sum.terms import Terms
from edgecmd.privacy.step.private_step import num_summed
from edgecmd.privacy.step.randomness import DeterministicSource
from server.deploy.certificates import make_node_key
from server.local_grid import set_identity
from tests.device_files import TOKEN, Device, make_device, run_config, weights_for, write_pairs
from tests.tiny_federation import contexts, run_of

SUMMED = (
    "privacy.aggregation=secure-sum",
    "privacy.sampling_rate=1",
    "federation.local_steps=1",
    "federation.num_clients=3",
    "privacy.min_survivors=2",
)


def summed(*changes: str) -> RunConfig:
    return run_config(*SUMMED, *changes)


class Site:
    """A device with a key, as its SuperNode holds it.

    Args:
        root: Of its files.
        device: Its pairs.
        config: Of the run.
        node: What its owner sets beside the folders.
    """

    def __init__(self, root: Path, device: Device, config: RunConfig, **node: object) -> None:
        self.config, self.root = config, root
        private, self.public = make_node_key()
        (root / "node.key").write_bytes(private)
        self.context: Context = contexts(config)[101]
        self.node = device.node | {
            "own-key": str(root / "node.key"),
            "peer-keys": str(root / "peers.pub"),
            **{name.replace("_", "-"): value for name, value in node.items()},
        }

    def pin(self, sites: list["Site"]) -> None:
        (self.root / "peers.pub").write_bytes(b"".join(one.public + b"\n" for one in sites))

    def ask(self, kind: str, asked: Mapping[str, object] | None = None, **sent: object) -> Message:
        set_identity()
        self.context.node_config.clear()
        self.context.node_config.update(self.node)  # type: ignore[arg-type]
        config = ConfigRecord({"server-round": 1, "run": TOKEN, **sent})  # type: ignore[dict-item]
        content = RecordDict(
            {"config": config, ASKED: ConfigRecord({"dim": dim_of(self.config)} | dict(asked or {}))}
        )
        if kind == "train":
            content["arrays"] = weights_for(self.config)
        message = Message(content, 101, kind if kind == "train" else f"query.{kind}")
        return app(message=message, context=self.context)


def dim_of(config: RunConfig) -> int:
    return summed_by(config.student.architecture)


@cache
def summed_by(architecture: str) -> int:
    generator = torch.Generator().manual_seed(0)
    student = build_student(architecture, in_channels=1, embedding_dim=128, generator=generator)
    return num_summed(student)


def told(reply: Message) -> ConfigRecord:
    assert not reply.has_error(), reply.error.reason
    return reply.content.config_records[ASKED]


def sites_of(root: Path, config: RunConfig, **node: object) -> list[Site]:
    found = []
    for number in range(3):
        device = make_device(root / str(number), rows=range(10 * number, 10 * number + 6))
        device.begin()
        found.append(Site(root / str(number), device, config, **node))
    for one in found:
        one.pin(found)
    return found


def terms_for(config: RunConfig) -> Terms:
    run = run_of(config)
    assert run.sum_plan is not None
    assert run.plan is not None
    return run.sum_plan.terms(run=TOKEN, round_index=1, dim=dim_of(config), noise_std=run.plan.noise_std)


def agreed(sites: list[Site], config: RunConfig) -> tuple[Collector, dict[str, Site]]:
    """The steps up to the masked vectors."""
    adverts = {Advert.unpacked(told(one.ask("sum_keys"))["keys"]): one for one in sites}  # type: ignore[arg-type]
    collector = Collector.begin(adverts, terms_for(config))
    keys = [one.packed() for one in collector.cohort.adverts.values()]
    named = {advert.name: site for advert, site in adverts.items()}
    for name, site in named.items():
        found = told(site.ask("sum_shares", {"keys": keys}))
        sent = dict(zip(found["to"], found["envelopes"], strict=True))  # type: ignore[arg-type]
        assert collector.add_envelopes(name, sent)  # type: ignore[arg-type]
    return collector, named


def envelopes(collector: Collector, name: str) -> dict[str, object]:
    sent = collector.envelopes[name]
    return {"from": list(sent), "envelopes": list(sent.values())}


def test_three_devices_give_their_sum_and_count_it(tmp_path: Path) -> None:
    config = summed()
    sites = sites_of(tmp_path, config, min_cohort=3, min_neighbours=2, min_survivors=2)
    collector, named = agreed(sites, config)
    for name, site in named.items():
        reply = site.ask("train", envelopes(collector, name))
        assert not reply.has_error(), reply.error.reason
        assert set(reply.content.metric_records["metrics"]) == {"client"}
        collector.add_masked(name, reply.content.array_records["arrays"][MASKED].numpy())
    survivors = {"survivors": list(collector.survivors)}
    for name, site in named.items():
        collector.votes[name] = told(site.ask("sum_vote", survivors))["vote"]  # type: ignore[assignment]
    votes = {"voters": list(collector.votes), "votes": list(collector.votes.values())}
    for name, site in named.items():
        found = told(site.ask("sum_unmask", votes))
        assert collector.add_shares(name, dict(zip(found["of"], found["shares"], strict=True)))  # type: ignore[arg-type]
        assert not site.context.state
    total = decoded(collector.total(), terms_for(config))
    # 18 clipped gradients of norm 1 at most, and noise of 2 (1 + 1/64) on each number, three shares of two.
    spread = float(np.std(total))
    assert spread == pytest.approx(2.0 * (1 + 1 / 64) * 1.5**0.5, rel=0.05)
    for site in sites:
        (ledger,) = (site.root / "state" / "ledger").glob("*.jsonl")
        assert ledger.read_text().count('"kind": "spend"') == 1


@pytest.mark.parametrize(
    ("node", "code"),
    [
        ({"own_key": ""}, "node-config"),
        ({"peer_keys": "/nowhere"}, "node-config"),
        ({"min_survivors": 3}, "out-of-bounds"),
        ({"min_colluding": 1}, "out-of-bounds"),
    ],
)
def test_what_the_owner_wants_is_kept(tmp_path: Path, node: dict[str, object], code: str) -> None:
    config = summed()
    device = make_device(tmp_path)
    site = Site(tmp_path, device, config, **node)
    site.pin([site])
    assert f"refused: {code}" in str(site.ask("sum_keys").error.reason)


@pytest.mark.parametrize("missing", ["own-key", "peer-keys"])
def test_without_pinned_keys_a_device_takes_no_part(tmp_path: Path, missing: str) -> None:
    site = Site(tmp_path, make_device(tmp_path), summed())
    site.pin([site])
    del site.node[missing]
    assert str(site.ask("sum_keys").error.reason).startswith("refused: no-peers")


@pytest.mark.parametrize("bound", [{"min_cohort": 4}, {"min_neighbours": 3}])
def test_a_cohort_that_is_too_small_for_the_owner_gets_no_shares(
    tmp_path: Path, bound: dict[str, object]
) -> None:
    config = summed()
    sites = sites_of(tmp_path, config, **bound)
    keys = [told(one.ask("sum_keys"))["keys"] for one in sites]
    assert "refused: too-few" in str(sites[0].ask("sum_shares", {"keys": keys}).error.reason)


def test_a_server_cannot_play_the_other_sites(tmp_path: Path) -> None:
    """It has keys of its own, and shows them as sites': the device knows who they are not."""
    config = summed()
    sites = sites_of(tmp_path / "real", config)
    played = [Site(tmp_path / "real" / str(one), make_device(tmp_path / f"p{one}"), config) for one in (1, 2)]
    keys = [told(one.ask("sum_keys"))["keys"] for one in (sites[0], *played)]
    for one in played:
        one.pin([sites[0], *played])
    sites[0].pin(sites)
    reason = str(sites[0].ask("sum_shares", {"keys": keys}).error.reason)
    assert reason.startswith("refused: secure-sum")
    assert not sites[0].context.state


@pytest.mark.parametrize(
    "asked",
    [
        {"keys": 3},
        {"keys": ["text"]},
        {"keys": [b"{"]},
        {"keys": []},
        {"dim": 0},
        {"dim": "many"},
        {"dim": 7},
        {"dim": 2**60},
    ],
)
def test_bad_messages_are_refused_by_a_code(tmp_path: Path, asked: dict[str, object]) -> None:
    config = summed()
    sites = sites_of(tmp_path, config)
    own = told(sites[0].ask("sum_keys"))
    assert own["keys"]
    reason = str(sites[0].ask("sum_shares", {"keys": [own["keys"]], **asked}).error.reason)
    assert reason.startswith("refused: ")
    again = str(sites[0].ask("train", {"from": [], "envelopes": []}).error.reason)
    assert again.startswith("refused: secure-sum")


def test_no_pair_decides_whether_a_device_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pairs, one, a broken one, and more than privacy.max_pairs: the same answers in form."""
    config = summed("privacy.max_pairs=4")
    monkeypatch.setattr(private, "make_source", lambda **_: DeterministicSource(7))
    sites = sites_of(tmp_path, config)
    pairs = tmp_path / "0" / "pairs"
    for part in ("source", "target"):
        for file in (pairs / part).iterdir():
            file.unlink()
    write_pairs(tmp_path / "1" / "pairs", range(10, 22))
    (tmp_path / "2" / "pairs" / "target" / "p020.png").write_bytes(b"no picture")
    collector, named = agreed(sites, config)
    for name, site in named.items():
        reply = site.ask("train", envelopes(collector, name))
        assert not reply.has_error(), reply.error.reason
        assert reply.content.array_records["arrays"][MASKED].numpy().shape == (dim_of(config),)


def test_a_plain_run_does_not_ask_for_keys_and_answers_no_query(tmp_path: Path) -> None:
    site = Site(tmp_path, make_device(tmp_path), run_config(), min_survivors=2)
    site.pin([site])
    assert "refused: secure-sum" in str(site.ask("sum_keys").error.reason)


def test_key_files_are_read_as_kits_have_them(tmp_path: Path) -> None:
    private, public = make_node_key()
    (tmp_path / "node.key").write_bytes(private)
    (tmp_path / "peers.pub").write_bytes(public + b"\n\n" + make_node_key()[1] + b"\n")
    identity, pinned = read_identity(tmp_path / "node.key"), read_pinned(tmp_path / "peers.pub")
    assert identity.name in pinned.keys
    assert len(pinned.keys) == 2
    assert identity.name == key_name(identity.key.public_key())
    assert pinned.is_signed(identity.name, b"text", identity.sign(b"text"))
    assert not pinned.is_signed(identity.name, b"other", identity.sign(b"text"))
    assert not pinned.is_signed("unknown", b"text", identity.sign(b"text"))


@pytest.mark.parametrize("content", [b"", b"ssh-rsa AAAA\n", b"\xff\xfe", b"ecdsa-sha2-nistp384 %%%\n"])
def test_files_without_keys_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(PrivacyError, match="peer-keys=.* holds") as caught:
        read_pinned(tmp_path / "file")
    assert caught.value.code == "node-config"
    with pytest.raises(PrivacyError, match="own-key=.* is no private key"):
        read_identity(tmp_path / "file")


@pytest.mark.parametrize("raw", [{"min-cohort": 0}, {"min-neighbours": "many"}, {"min-survivors": 1}])
def test_numbers_that_are_none_are_refused(raw: dict[str, object]) -> None:
    with pytest.raises(PrivacyError, match="allowed are numbers"):
        read_node({"data-dir": "/srv/pairs", **raw})
