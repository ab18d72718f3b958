"""The node: what a daemon is made of, put together. `node.py` is the place that knows every part."""
