"""Protocol machines without input or output: they take bytes and the time, and give bytes and events."""
