"""The server's side of a round that is a secure sum: five messages to each client, and one sum.

It learns who took part and the sum, and can learn no more (`edgecmd.privacy.secure_sum.party`). What it
makes of the sum is a reply that stands for all, so that a strategy takes the step: post-processing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from clients.identity import ASKED, MASKED
from edgecmd.models.students import Student
from edgecmd.privacy.ledger import BudgetSpentError, Ledger, Release
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.secure_sum.adverts import Advert
from edgecmd.privacy.secure_sum.collector import Collector, SpoiltError
from edgecmd.privacy.secure_sum.integers import decoded, is_plausible
from edgecmd.privacy.secure_sum.sum_plan import SumPlan
from edgecmd.privacy.secure_sum.terms import Terms
from edgecmd.privacy.secure_sum.updates import NUM_BESIDE, counted, moved, num_changed
from edgecmd.privacy.step.private_step import gradient_of_sum, num_summed
from edgecmd.run import Run
from edgecmd.training.averaging import Arrays, load_arrays, to_arrays
from server.messages import Messenger, exchange, train_messages
from server.privacy.one_shot import OneShot, one_shot
from server.quorum import BudgetEndError, check_quorum
from server.screening import Rejection, error_words
from server.strategies import to_record

BROKEN = "an answer that is not a step of the secure sum"
Told = Mapping[int, RecordDict]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summed:
    """What a round's sum is to the loop.

    Attributes:
        reply: Stands for all replies.
        num_clients: Clients in the sum.
        rejected: Clients that are not, and why.
    """

    reply: Message
    num_clients: int
    rejected: list[Rejection]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SumRounds:
    """The secure sums of a run.

    Attributes:
        run: What is run.
        plan: Who must be in a sum.
        student: Of the run; its weights are overwritten.
        dim: Length of a vector.
        ledger: Counts the rounds of a guarantee per client; None where each client counts its own.
        one_shot: Makes the student of a sum that is released once; None where the sum is a step.
    """

    run: Run
    plan: SumPlan
    student: Student
    dim: int
    ledger: Ledger | None
    one_shot: OneShot | None

    @property
    def privacy(self) -> PrivacyPlan | None:
        """Plan of the run's privacy."""
        return self.run.plan

    @property
    def per_pair(self) -> bool:
        """Whether clients sum gradients, and not changes of their weights."""
        return self.privacy is not None and self.privacy.unit == "pair"

    def terms(self, token: str, round_index: int) -> Terms:
        """Terms of a round.

        Raises:
            PrivacyError: The sum could wrap around.
        """
        return self.plan.terms(
            run=token,
            round_index=round_index,
            dim=self.dim,
            noise_std=0.0 if self.privacy is None else self.privacy.noise_std,
        )

    def ask(self, messenger: Messenger, arrays: Arrays, cohort: list[int], round_index: int) -> Summed:
        """Go through the steps of the protocol with ``cohort``, and read their sum.

        Raises:
            FederationError: Too few clients came through a step, or the sum is spoilt.
            BudgetEndError: Budgets are spent.
        """
        total, parties, rejected = self.total(messenger, arrays, cohort, round_index)
        if not is_plausible(total, self.terms(messenger.token, round_index)):
            raise SpoiltError(
                f"Round {round_index}: the sum is spoilt: its norm is more than the clients' vectors and the"
                " noise can make, so at least one client sent something else. Nobody learnt anything by it."
                " Finished rounds are saved; look at the clients' logs, leave out whom you do not trust, and"
                " continue."
            )
        return Summed(reply=self._reply(total, arrays), num_clients=len(parties), rejected=rejected)

    def total(
        self, messenger: Messenger, arrays: Arrays, cohort: list[int], round_index: int
    ) -> tuple[np.ndarray, tuple[str, ...], list[Rejection]]:
        """The noised sum in the units of the vectors, the parties whose vectors are in it, and who is not.

        Raises:
            FederationError: Too few clients came through a step.
            BudgetEndError: Budgets are spent.
        """
        if self.ledger is not None:
            self._require_budget(self.ledger)
        talk = _Talk(
            rounds=self,
            messenger=messenger,
            terms=self.terms(messenger.token, round_index),
            asked=cohort[: self.plan.cohort],
            rejected=[],
        )
        nodes, collector = talk.agree()
        if self.ledger is not None:
            assert self.privacy is not None
            release = Release(run=messenger.token, round_index=round_index, query="", reply="")
            self.ledger.spend(self.privacy, release, epsilon=self.privacy.epsilon, delta=self.privacy.delta)
        nodes = talk.collect(nodes, collector, arrays)
        talk.open(nodes, collector)
        return decoded(collector.total(), talk.terms), collector.survivors, talk.rejected

    def _require_budget(self, ledger: Ledger) -> None:
        assert self.privacy is not None
        try:
            ledger.require_budget(self.privacy, epsilon=self.privacy.epsilon, delta=self.privacy.delta)
        except BudgetSpentError as spent:
            raise BudgetEndError(str(spent)) from spent

    def _reply(self, total: np.ndarray, arrays: Arrays) -> Message:
        """The reply that stands for all: what the weights would be after a plain step with the sum."""
        num, loss, fixed = 1, 0.0, self.student.fixed
        if self.one_shot is not None:
            return self.one_shot.of_sum(total, arrays)
        if self.per_pair:
            assert self.privacy is not None
            load_arrays(self.student, arrays)
            rate = self.run.distill.learning_rate
            updated = dict(arrays)
            for name, value in gradient_of_sum(self.student, total / self.privacy.normaliser).items():
                updated[name] = arrays[name] - rate * value
        elif self.privacy is not None:
            updated = moved(arrays, total / self.privacy.normaliser, fixed=fixed)
        else:
            settings = self.run.privacy
            found = counted(total, max_pairs=settings.max_pairs, max_update=settings.max_update)
            num, loss = max(1, found.num_examples), found.loss
            updated = moved(arrays, found.change, fixed=fixed)
        cast = {name: np.asarray(updated[name], dtype=value.dtype) for name, value in arrays.items()}
        metrics = MetricRecord({"num-examples": num, "loss": loss})
        return Message(RecordDict({"arrays": to_record(cast), "metrics": metrics}), 1, "train")


@dataclass(kw_only=True, slots=True, eq=False)
class _Talk:
    """One round's messages.

    Attributes:
        rounds: The sums of the run.
        messenger: Grid, deadline and name of the run.
        terms: Of the round.
        asked: Nodes of the cohort.
        rejected: Who fell out, and why.
    """

    rounds: SumRounds
    messenger: Messenger
    terms: Terms
    asked: list[int]
    rejected: list[Rejection]

    def agree(self) -> tuple[dict[str, int], Collector]:
        """Fresh keys and shares of a cohort that is complete; without whoever falls out, all begin anew.

        Returns:
            Node of each party, by name.
        """
        nodes = self.asked
        while True:
            told = self._query("sum_keys", dict.fromkeys(nodes, ConfigRecord({})))
            adverts = self._read(told, lambda one: Advert.unpacked(_value(one, "keys", bytes)))
            named = {advert.name: node for node, advert in adverts.items()}
            self._drop(node for node, advert in adverts.items() if named[advert.name] != node)
            self._require(len(named))
            cohort = [advert for node, advert in adverts.items() if named[advert.name] == node]
            collector = Collector.begin(cohort, self.terms)
            keys = ConfigRecord({"keys": [one.packed() for one in collector.cohort.adverts.values()]})
            told = self._query("sum_shares", dict.fromkeys(named.values(), keys))
            sent = self._read(told, lambda one: _pairs(one, "to", "envelopes"))
            good = {
                name: node
                for name, node in named.items()
                if node in sent and collector.add_envelopes(name, sent[node])
            }
            if len(good) == len(named):
                return named, collector
            self._drop(node for name, node in named.items() if node in sent and name not in good)
            nodes = list(good.values())

    def collect(self, nodes: dict[str, int], collector: Collector, arrays: Arrays) -> dict[str, int]:
        """Masked vectors; the nodes that sent one, by name."""
        asked = {
            node: ConfigRecord({"from": list(sent), "envelopes": list(sent.values())})
            for node, sent in ((node, collector.envelopes[name]) for name, node in nodes.items())
        }
        told = self._train(asked, arrays)
        vectors = self._read(told, self._vector)
        alive = {name: node for name, node in nodes.items() if node in vectors}
        self._require(len(alive))
        for name, node in alive.items():
            collector.add_masked(name, vectors[node])
        return alive

    def open(self, nodes: dict[str, int], collector: Collector) -> None:
        """Votes for the survivors, and shares of what hides them."""
        survivors = ConfigRecord({"survivors": list(collector.survivors)})
        told = self._query("sum_vote", dict.fromkeys(nodes.values(), survivors))
        votes = self._read(told, lambda one: _value(one, "vote", bytes))
        collector.votes = {name: votes[node] for name, node in nodes.items() if node in votes}
        self._require(len(collector.votes))
        voted = ConfigRecord({"voters": list(collector.votes), "votes": list(collector.votes.values())})
        told = self._query("sum_unmask", {nodes[name]: voted for name in collector.votes})
        shares = self._read(told, lambda one: _pairs(one, "of", "shares"))
        good = {
            name: node
            for name, node in nodes.items()
            if node in shares and collector.add_shares(name, shares[node])
        }
        self._drop(node for name, node in nodes.items() if node in shares and name not in good)

    def _query(self, query: str, asked: Mapping[int, ConfigRecord]) -> Told:
        config = ConfigRecord(
            {
                **self.messenger.expectations,
                "run": self.messenger.token,
                "server-round": self.terms.round_index,
            }
        )
        return self._send(
            [
                Message(
                    RecordDict({"config": config, ASKED: self._with_dim(one)}),
                    node,
                    f"query.{query}",
                    group_id=str(self.terms.round_index),
                )
                for node, one in asked.items()
            ]
        )

    def _train(self, asked: Mapping[int, ConfigRecord], arrays: Arrays) -> Told:
        messages = train_messages(self.messenger, arrays, list(asked), self.terms.round_index)
        for message in messages:
            # A strategy gives all its messages one content.
            own = self._with_dim(asked[message.metadata.dst_node_id])
            message.content = RecordDict({**message.content, ASKED: own})
        return self._send(messages)

    def _with_dim(self, record: ConfigRecord) -> ConfigRecord:
        return ConfigRecord({**record, "dim": self.terms.dim})

    def _send(self, messages: list[Message]) -> Told:
        answers, missing = exchange(self.messenger, messages)
        private = self.messenger.private
        failed = {node: reply for node, reply in answers.items() if reply.has_error()}
        self.rejected += missing
        self.rejected += [
            Rejection(node_id=node, reason=error_words(reply.error, private=private))
            for node, reply in failed.items()
        ]
        return {node: reply.content for node, reply in answers.items() if node not in failed}

    def _read(self, told: Told, read: Callable[[RecordDict], Any]) -> dict[int, Any]:
        """What ``read`` finds in each answer; who sent something else falls out."""
        found: dict[int, Any] = {}
        for node, content in told.items():
            try:
                found[node] = read(content)
            # Whatever a client sends, it must not stop the round.
            except Exception:
                self._drop([node])
        return found

    def _vector(self, content: RecordDict) -> np.ndarray:
        value = content.array_records["arrays"][MASKED].numpy()
        if value.dtype != np.uint32 or value.shape != (self.terms.dim,):
            raise ValueError("another vector")
        return value

    def _drop(self, nodes: Any) -> None:  # noqa: ANN401 - any iterable of node ids
        self.rejected += [Rejection(node_id=node, reason=BROKEN) for node in nodes]

    def _require(self, num: int) -> None:
        """Refuse to go on with fewer parties than a sum needs."""
        terms, survivors = self.messenger.terms, self.terms.survivors
        if terms.min_replies < survivors:
            quorum = f"privacy.min_survivors={survivors}"
            terms = replace(terms, min_replies=survivors, quorum=quorum)
        check_quorum(
            range(num),
            self.rejected,
            num_asked=len(self.asked),
            terms=terms,
            round_index=self.terms.round_index,
        )


def _value(content: RecordDict, name: str, kind: type) -> Any:  # noqa: ANN401 - of the kind
    value = content.config_records[ASKED][name]
    if not isinstance(value, kind):
        raise TypeError(name)
    return value


def _pairs(content: RecordDict, names: str, values: str) -> dict[str, bytes]:
    listed, found = _value(content, names, list), _value(content, values, list)
    if not all(isinstance(one, bytes) for one in found):
        raise TypeError(values)
    return dict(zip(listed, found, strict=True))


def sum_rounds(run: Run, student: Student) -> SumRounds | None:
    """The secure sums of a run; None where the server sees each reply.

    Raises:
        PrivacyError: The settings do not go together with a secure sum, or the sum could wrap around.
    """
    plan = run.sum_plan
    if plan is None:
        return None
    once = one_shot(run.plan, student)
    if once is not None:
        dim = sum(value.size for value in once.reference.values())
    elif run.plan is not None and run.plan.unit == "pair":
        dim = num_summed(student)
    else:
        beside = NUM_BESIDE if run.plan is None else 0
        dim = num_changed(to_arrays(student), fixed=student.fixed) + beside
    per_client = run.plan is not None and run.plan.unit == "client"
    made = SumRounds(
        run=run,
        plan=plan,
        student=student,
        dim=dim,
        ledger=Ledger(run.server_ledger) if per_client else None,
        one_shot=once,
    )
    made.terms("", 1)
    return made
