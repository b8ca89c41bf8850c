"""The index of a client, known without anything heavy: the query for it must answer at once."""


def index_of_node(node_id: int) -> int:
    """Index of a device whose owner gave none: made of Flower's id of the node, so that devices differ."""
    return node_id % 2**31
