"""`python -m ledger.fake_provider --port P` serves the fake provider. Knows no format."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(
        prog="python -m ledger.fake_provider",
        description="A provider that bills nobody, in the formats of those that do.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--demo-latency", action="store_true", help="answer as slowly as a real model would"
    )
    chosen = parser.parse_args(arguments)
    try:
        import uvicorn
    except ImportError:
        says = "The fake provider needs uvicorn; install tollkeeper[embedded]."
        print(says, file=sys.stderr)
        return 1
    from ledger.fake_provider.app import FakeProvider

    uvicorn.run(
        FakeProvider(demo=chosen.demo_latency),
        host=chosen.host,
        port=chosen.port,
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,
        backlog=1024,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
