"""Values, pure: no trio, no sockets, no clock, no randomness."""
