"""Two machines, one passphrase, any payload: `python -m tether_lite listen | connect`. Arguments and display only."""
