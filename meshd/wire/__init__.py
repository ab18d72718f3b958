"""Bytes to values and back, pure; every decoder is bounded."""
