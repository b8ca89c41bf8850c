"""What a device answers when it declines: one word of a fixed table, never the text of the error.

The text of a `PrivacyError` may hold paths, budgets and what was spent with other servers. It stays in
the log of the device; only the code travels.
"""

from edgecmd.core.errors import PrivacyError

PREFIX = "refused: "
REFUSALS: dict[str, str] = {
    "budget-spent": "one more round would exceed the privacy budget of the device's pairs",
    "ledger": "the device's ledger cannot be read, written or trusted; the device's log says why",
    "no-ledger": "no ledger counts the device's pairs; its owner starts one with `edgecmd node --new-ledger`",
    "no-guarantee": "the run's privacy settings give no guarantee on a device with pairs of its own",
    "out-of-bounds": "a setting of the run is outside the limits that the device's owner set",
    "names-a-file": "a setting of the run names something to read; on a device only its owner decides that",
    "names-code": "a setting of the run names code to import; on a device only its owner allows modules",
    "other-anchors": "teacher, public images or anchors are not those that the device's owner pinned",
    "other-version": "the device runs another version of edgecmd than its owner pinned or the server runs",
    "node-config": "the device's own configuration is wrong; the device's log says why",
    "secure-sum": "a message of the secure sum was out of order, changed, or another round's or party's",
    "too-few": "too few clients are in the secure sum for its noise, or for the device's owner",
    "no-peers": "the device's configuration lacks its key, or the list of the sites' keys, for a secure sum",
    "mixes-pairs": "the student or the loss lets one pair reach another",
}


def sealed(error: PrivacyError) -> str:
    """Reason of an error reply: the code, and the public detail where there is one."""
    code = error.code if error.code in REFUSALS else "no-guarantee"
    return f"{PREFIX}{code}" + (f" ({error.detail})" if error.detail else "")


def explained(reason: str) -> str:
    """A sealed reason with the sentence of its code, for whoever reads the server's messages."""
    code = reason.removeprefix(PREFIX).partition(" ")[0]
    return f"{reason}: {REFUSALS[code]}" if reason.startswith(PREFIX) and code in REFUSALS else reason
