"""What is known of a client without anything heavy: the query for its index must answer at once."""

# Steps of a secure sum that are queries, in their order; the masked vector answers ``train``.
QUERIES = ("sum_keys", "sum_shares", "sum_vote", "sum_unmask")
# Names in their messages: of the record with what is passed on, and of the masked vector.
ASKED, MASKED = "sum", "masked"
# Key of a node's config: whether a server is told what the ledger has counted.
TELL = "tell-epsilon"


def index_of_node(node_id: int) -> int:
    """Index of a device whose owner gave none: made of Flower's id of the node, so that devices differ."""
    return node_id % 2**31
