"""Run hundreds of cases, or send thousands of requests to one server; measure growth and compare the results.

    python tools/reliability/endurance.py --cases 500
    python tools/reliability/endurance.py --requests 2000 --clients 8

The exit code is 1 if memory, files or threads grow beyond ``endurance_watch.BOUNDS``, or a result is not that of its
scan. Needs Linux.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run the cases or requests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=0, help="number of scans in one run of inference")
    parser.add_argument("--requests", type=int, default=0, help="number of requests to the MONAI Label app")
    parser.add_argument("--clients", type=int, default=8, help="number of simultaneous clients (8)")
    parser.add_argument("--keep", type=Path, help="new folder for scans, results and logs (temporary)")
    options = parser.parse_args()
    if not options.cases and not options.requests:
        parser.error("give --cases or --requests")
    with tempfile.TemporaryDirectory() as scratch:
        folder, failed = options.keep or Path(scratch), []
        for count, part in ((options.cases, "cases"), (options.requests, "requests")):
            if count:
                text, wrong = _part(part, count, options.clients, folder / part)
                print(f"{text}\n", flush=True)
                failed += wrong
    for line in failed:
        print(f"NOT AS EXPECTED: {line}")
    return bool(failed)


def _part(part: str, count: int, clients: int, folder: Path) -> tuple[str, list[str]]:
    folder.mkdir(parents=True)
    if part == "cases":
        from endurance_cases import endure

        return endure(count, folder)
    from endurance_requests import endure_requests

    return endure_requests(count, clients, folder)


if __name__ == "__main__":
    sys.exit(main())
