"""How the sidecar speaks to its operator: one line per thing worth knowing, on stderr. Knows no
request.
"""

import logging


def configure_logging(name: str) -> None:
    """Log lines with time, level and the worker's name."""
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s"
    )
