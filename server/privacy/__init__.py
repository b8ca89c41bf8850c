"""What a server does for privacy: noise of its own, sums that it sees no part of, and what it writes down."""
