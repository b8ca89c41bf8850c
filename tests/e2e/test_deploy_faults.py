"""Faults over the real link (`pytest -m slow`): three sites from their kits over TLS, one broken each time.

Every test breaks something in a private run, reads the ledgers and mends it. After some, and after the last,
a plain run without faults is repeated with the same sites and keys; its student must have the bytes of the
undisturbed one. Noise comes from the operating system, so that only plain runs can have equal bytes.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

import edgecmd
from edgecmd.privacy.accounting import total_epsilon
from server.deploy.certificates import Signed, make_authority, make_node_key, read_signed
from server.deploy.kit_processes import free_port, start_kit, stop
from server.deploy.kits import AUTHORITY, SERVER, renew_site
from tests.real_link import BEHIND_PROXY, LOG, NAMES, Outcome, RealLink, of_folder, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/task").is_dir(), reason="looks into processes as Linux shows them"
    ),
]
VICTIM, OTHERS = BEHIND_PROXY, tuple(name for name in NAMES if name != BEHIND_PROXY)
DELTA = 1e-5


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealLink, bytes]]:
    """The federation, and the student of an undisturbed run."""
    folder = tmp_path_factory.mktemp("faults")
    link = RealLink(folder=folder)
    try:
        link.start_server()
        link.ensure()
        yield link, link.undisturbed("undisturbed")
    finally:
        link.close()
    until(lambda: not of_folder(folder), "nothing is left behind")


@pytest.fixture
def link(deployed: tuple[RealLink, bytes], request: pytest.FixtureRequest) -> Iterator[RealLink]:
    """The federation, whole before a fault; after it, a plain repeat has the undisturbed run's bytes."""
    one, undisturbed = deployed
    one.ensure()
    yield one
    one.ensure()
    assert one.undisturbed(f"repeat-{request.node.name.removeprefix('test_')}") == undisturbed
    LOG.info("%s: equal bytes", request.node.name)


def private_run(link: RealLink, name: str, **changes: object) -> None:
    link.describe(name, private=True, **{"min_clients": 2, "num_rounds": 3, **changes})


def in_round_2(link: RealLink, name: str, harm: Callable[[int], object], *, command: bool = False) -> Outcome:
    """Submit a run, do harm while a process of the victim answers the second round, and follow the run."""
    run = link.begin(name, command=command)
    until(lambda: link.rounds(name), "round 1", every_s=0.02)
    harm(link.next_answering(VICTIM))
    return run.result()


def require_sentence(text: str) -> None:
    assert "Traceback" not in text
    assert "Unexpected" not in text


def require_ledgers(link: RealLink, name: str, rounds: set[int], *victim: set[int]) -> None:
    """Each site counts each of the ``rounds`` once; the victim those of one of its own sets, if any.

    Epsilon of the ledger is that of so many rounds of one plan, by the accountant itself.
    """
    expected = dict.fromkeys(NAMES, (rounds,)) | ({VICTIM: victim} if victim else {})
    for site, allowed in expected.items():
        counted = link.counted(site, name)
        assert set(counted.values()) <= {1}, f"{site} counts a round twice: {counted}"
        assert set(counted) in allowed, f"{site}: {counted}"
        book = link.ledger(site).read()
        (spending,) = book.plans().values()
        total = sum(line["kind"] == "spend" for line in book.lines)
        assert not book.num_torn
        assert link.ledger(site).epsilon(delta=DELTA) == pytest.approx(
            total_epsilon([spending] * total, delta=DELTA, accountant="pld"), abs=1e-9
        )
        LOG.info("%s: %s counts rounds %s", name, site, sorted(counted))


def test_a_site_is_killed_in_a_round_and_started_again(link: RealLink) -> None:
    private_run(link, "node-killed")
    done = in_round_2(link, "node-killed", lambda _: link.kill(VICTIM))
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients[:2] == [3, 2]
    assert (2, "node unavailable: the SuperLink receives no heartbeat") in done.reasons
    require_ledgers(link, "node-killed", {1, 2, 3}, {1}, {1, 2})
    attempts = link.supervised(VICTIM)
    LOG.info("node-killed: taken in again at attempt %d", attempts)


def kill_before_messages_are_taken(link: RealLink, name: str) -> None:
    """The sites stand still, so that the messages of the next round stay where they are."""
    made = len(link.rounds(name))
    until(lambda: len(link.rounds(name)) > made, "a round", every_s=0.01)
    still = [pid for site in NAMES for pid in (link.programs[site].pid, *link.processes(site))]
    link.pause(*still)
    until(lambda: False in link.train_messages(), "messages that nobody took", every_s=0.02)
    LOG.info("messages that were taken: %s", link.train_messages())
    link.kill(SERVER)
    link.resume(*still)


def kill_while_sites_train(link: RealLink, _: str) -> None:
    link.kill(SERVER)


def kill_before_the_checkpoint(link: RealLink, _: str) -> None:
    """The server's app stands still, so that replies lie at the SuperLink. Earlier, sites wait for more."""
    before = link.num_replies()
    until(lambda: link.num_replies() > before, "a first reply", every_s=0.01)
    link.pause(link.server_app())
    until(lambda: not any(map(link.answering, NAMES)), "replies of all", every_s=0.02)
    time.sleep(2.0)
    LOG.info("replies that nobody took: %d", link.num_replies())
    link.kill(SERVER)


def given_up(link: RealLink) -> bool:
    """Whether Flower has given up the run whose server app is gone, which takes it a minute."""
    return bool(link.link.runs()[0]["status"].startswith("finished"))


def test_the_superlink_is_killed_in_each_phase_of_a_round(link: RealLink) -> None:
    """Each time the next `deploy run` continues: every round has all three sites, and costs once."""
    name = "link-killed"
    private_run(link, name, min_clients=3, num_rounds=5)
    for harm in (kill_before_messages_are_taken, kill_while_sites_train, kill_before_the_checkpoint):
        made = len(link.rounds(name))
        run = link.begin(name, command=True)
        until(lambda before=made: len(link.rounds(name)) > before, "a round", every_s=0.02)
        link.next_answering(VICTIM)
        harm(link, name)
        broken = run.result()
        assert broken.code == 5
        require_sentence(broken.text)
        # A site behind a proxy takes the dead link for a broken handshake and ends; its unit starts it again.
        link.ensure()
        until(lambda: given_up(link), "Flower gives up the run", every_s=5.0)
        LOG.info("%s: %s", harm.__name__, link.link.runs()[0])
    assert link.begin(name).result().code == 0
    assert [(one["round"], one["clients"]) for one in link.rounds(name)] == [
        (place, 3) for place in range(1, 6)
    ]
    # A round that was answered before the fault is asked again: the same reply, which costs nothing.
    require_ledgers(link, name, set(range(1, 6)))


def test_the_network_of_a_site_is_cut(link: RealLink) -> None:
    private_run(link, "cut")
    done = in_round_2(link, "cut", lambda _: link.proxy.cut())
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients[:2] == [3, 2]
    assert (2, "node unavailable: the SuperLink receives no heartbeat") in done.reasons
    # What was trained may have left, so it is counted; it may also have been cut off before.
    require_ledgers(link, "cut", {1, 2, 3}, {1}, {1, 2})
    link.proxy.heal()
    until(lambda: link.online() == set(NAMES) or not link.is_running(VICTIM), "the site is back", every_s=1.0)
    LOG.info("cut: the site is %s", "online" if link.is_running(VICTIM) else "for its supervisor to start")


def test_a_site_is_slower_than_the_deadline(link: RealLink) -> None:
    """Its late reply belongs to a round that is over and counts in no other."""
    private_run(link, "slow", deadline_s=90.0)

    def hold_up(slow: int) -> None:
        """It works for a hundredth of the time, and its heartbeat goes on."""
        while len(link.rounds("slow")) < 2:
            link.pause(slow)
            time.sleep(4.0)
            link.resume(slow)
            time.sleep(0.03)

    done = in_round_2(link, "slow", hold_up)
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients[:2] == [3, 2]
    assert (2, "no reply within federation.deadline_s=90 s") in done.reasons
    require_ledgers(link, "slow", {1, 2, 3}, {1, 2}, {1, 2, 3})


def test_a_process_of_a_site_freezes(link: RealLink) -> None:
    """Flower misses its heartbeat and gives the message to another process, which answers."""
    private_run(link, "frozen")

    def freeze(pid: int) -> None:
        link.pause(pid)
        until(lambda: len(link.rounds("frozen")) == 2, "round 2")
        link.resume(pid)

    done = in_round_2(link, "frozen", freeze)
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients == [3, 3, 3]
    require_ledgers(link, "frozen", {1, 2, 3})


def test_the_disk_of_a_site_is_full(link: RealLink) -> None:
    """Its processes may write no file of the size of a reply (RLIMIT_FSIZE), as where the disk is full."""
    private_run(link, "full")
    run = link.begin("full")
    until(lambda: link.rounds("full"), "round 1", every_s=0.02)
    link.limit_files(VICTIM, 100_000)
    done = run.result()
    link.limit_files(VICTIM, -1)
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients == [3, 2, 2]
    assert done.reasons == [(2, "refused: ledger"), (3, "refused: ledger")]
    require_sentence(link.log(VICTIM))
    require_ledgers(link, "full", {1, 2, 3}, {1})


def redated(kit: Path, *, begin: timedelta, end: timedelta) -> bytes:
    """The server's certificate with other dates, counted from now, signed by the same authority."""
    key = (kit.parent / AUTHORITY / "ca.key").read_bytes()
    ca_key, _ = read_signed(Signed(key=key, certificate=(kit / "ca.crt").read_bytes()))
    old, now = x509.load_pem_x509_certificate((kit / "server.pem").read_bytes()), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
    )
    for one in old.extensions:
        made = made.add_extension(one.value, critical=one.critical)
    return made.sign(ca_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        (timedelta(days=1), timedelta(days=30), "not yet valid"),
        (timedelta(days=-30), timedelta(hours=-1), "expired"),
    ],
    ids=["clock-behind", "expired"],
)
def test_a_certificate_is_out_of_date(link: RealLink, begin: timedelta, end: timedelta, said: str) -> None:
    """As where a clock is a day behind, and as where nobody renewed it."""
    kit = link.kit(SERVER)
    private_run(link, "dates")
    link.quit(SERVER)
    with changed(kit / "server.pem", redated(kit, begin=begin, end=end)):
        link.start(SERVER)
        until(lambda: "Uvicorn running" in link.log(SERVER), "the SuperLink listens")
        run = link.begin("dates", command=True).result()
        check, own = link.edgecmd("check", str(link.kit(VICTIM))), link.edgecmd("check", str(kit))
        link.quit(SERVER)
    LOG.info("%s\n%s\n%s", run.text, check.stdout + check.stderr, own.stdout + own.stderr)
    assert (run.code, check.returncode, own.returncode) == (5, 5, 5)
    for text in (run.text, check.stdout + check.stderr, own.stdout + own.stderr):
        require_sentence(text)
    assert said in " ".join(run.text.split())
    assert said in " ".join(check.stdout.split())
    assert link.rounds("dates") == []
    link.start_server()
    LOG.info("running after the fault: %s", [name for name in NAMES if link.is_running(name)])


@contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """Another file in the place of ``path`` for a while, with the rights that it has."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def refused(link: RealLink, said: str) -> None:
    """The victim is started and refused; with a code of its own and Flower's words."""
    link.start(VICTIM)
    until(lambda: not link.is_running(VICTIM), "the site is refused")
    code = link.programs[VICTIM].returncode
    LOG.info("exit %d: %s", code, link.log(VICTIM)[-600:])
    assert code != 0
    assert said in link.log(VICTIM)


def test_a_site_with_a_wrong_authority_or_key_is_kept_out(link: RealLink) -> None:
    """The run starts without it after the deadline, and goes on with the rest."""
    kit, wrong_key = link.kit(VICTIM), make_node_key()[0]
    link.quit(VICTIM)
    with changed(kit / "ca.crt", make_authority("other", days=30).certificate):
        refused(link, "certificate")
        check = link.edgecmd("check", str(kit))
    assert check.returncode == 5
    require_sentence(check.stdout + check.stderr)
    assert "certificate is refused" in " ".join(check.stdout.split())
    with changed(kit / "node.key", wrong_key):
        refused(link, "Failed to initialize the connection")
        private_run(link, "kept-out", num_rounds=1, deadline_s=60.0)
        done = link.begin("kept-out").result()
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients == [2]
    require_ledgers(link, "kept-out", {1}, set())


def test_sites_of_another_version_or_teacher_refuse_the_round(link: RealLink, tmp_path: Path) -> None:
    """One has another edgecmd installed, one pins another teacher; the third goes on."""
    other, third = OTHERS
    init = shutil.copytree(Path(edgecmd.__file__).parent, tmp_path / "edgecmd") / "__init__.py"
    init.write_text(init.read_text().replace(edgecmd.__version__, "0.0.9"))
    start, node = link.kit(other) / "start.sh", link.kit(VICTIM) / "node.toml"
    path = f'export PYTHONPATH="{tmp_path}:${{PYTHONPATH:-}}"\nexec '
    pinned = re.sub(rb"(?m)^teacher-sha256 = .*$", b'teacher-sha256 = "%s"' % (b"0" * 64), node.read_bytes())
    private_run(link, "differ", num_rounds=1, min_clients=1)
    for name in (other, VICTIM):
        link.quit(name)
    with changed(start, start.read_bytes().replace(b"exec ", path.encode())), changed(node, pinned):
        for name in (other, VICTIM):
            link.supervised(name)
        done = link.begin("differ").result()
        for name in (other, VICTIM):
            link.quit(name)
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients == [1]
    assert {reason for _, reason in done.reasons} == {
        "refused: other-version (edgecmd-version)",
        "refused: other-anchors (teacher-sha256)",
    }
    assert [sorted(link.counted(name, "differ")) for name in (other, third, VICTIM)] == [[], [1], []]


def test_a_site_comes_late(link: RealLink) -> None:
    """The run starts without it after the deadline, and asks it from the round on in which it is there."""
    private_run(link, "late", num_rounds=6, deadline_s=40.0)
    link.quit(VICTIM)
    run = link.begin("late")
    until(lambda: link.rounds("late"), "round 1", every_s=0.02)
    link.supervised(VICTIM)
    done = run.result()
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients[0] == 2
    assert done.clients[-1] == 3
    answered = {one["round"] for one in done.rounds if one["clients"] == 3}
    require_ledgers(link, "late", set(range(1, 7)), answered)


def test_a_second_program_with_the_key_of_a_site(link: RealLink) -> None:
    """It is refused, and the site itself goes on."""
    private_run(link, "double", num_rounds=2)
    second = start_kit(link.kit(VICTIM), link.folder / "logs" / "second.log", port=free_port())
    try:
        done = link.begin("double").result()
        until(lambda: second.poll() is not None, "the second is refused")
    finally:
        stop(second)
    LOG.info("exit %d: %s", second.returncode, link.log("second")[-600:])
    assert second.returncode not in (0, None)
    assert "Failed to initialize the connection" in link.log("second")
    assert done.code == 0
    assert done.clients == [3, 3]
    assert done.reasons == []
    require_ledgers(link, "double", {1, 2})


def test_a_site_leaves_for_good(link: RealLink) -> None:
    private_run(link, "leaves")
    done = in_round_2(link, "leaves", lambda _: link.quit(VICTIM))
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients[0] == 3
    assert done.clients[-1] == 2
    require_ledgers(link, "leaves", {1, 2, 3}, {1}, {1, 2})


def test_the_key_of_a_site_is_revoked(deployed: tuple[RealLink, bytes]) -> None:
    """A new key is a new node of Flower's, whose index is another: two repeats have bytes of their own."""
    link, expected = deployed
    link.ensure()
    private_run(link, "revoked")
    done = in_round_2(link, "revoked", lambda _: link.link.revoke(VICTIM))
    assert done.code == 0
    require_sentence(done.text)
    assert done.clients[0] == 3
    assert done.clients[-1] == 2
    require_ledgers(link, "revoked", {1, 2, 3}, {1}, {1, 2})
    LOG.info("the revoked site is running: %s", link.is_running(VICTIM))
    link.quit(VICTIM)
    refused(link, "Failed to initialize the connection")
    before = link.ledger(VICTIM).num_rounds()
    renew_site(link.kits, VICTIM)
    link.link.register()
    link.ensure()
    repeats = [link.undisturbed(f"repeat-revoked-{place}") for place in range(2)]
    assert repeats[0] == repeats[1]
    assert repeats[0] != expected
    assert link.ledger(VICTIM).num_rounds() == before
