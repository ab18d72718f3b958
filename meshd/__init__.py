"""The mesh: values, bytes, protocol machines and the drivers that run them. Start with docs/tour.md."""

__version__ = "0.2.0"
