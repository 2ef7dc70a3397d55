"""Thousands of requests from several clients at once to the MONAI Label app, which is watched from outside."""

from __future__ import annotations

import contextlib
import email
import json
import os
import random
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from endurance_cases import make_scans, name
from endurance_watch import beyond, growth, table, usage

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
from label_server import copy_app, copy_bundle, install_package, make_environment, start_server, wait_until_ready

BUNDLE = "phantom_segmentation"
SIZE = [16, 16, 16]
SCANS, SEEDS, MODELS = 16, (0, 1), (BUNDLE, f"{BUNDLE}_uncertainty")
SAMPLES = 40  # looks at the server while it works


class Question(NamedTuple):
    """What a request asks for."""

    model: str
    scan: str
    seed: int


class Answer(NamedTuple):
    """What came: the label map's file, byte for byte, and the numbers."""

    file: bytes
    volumes: str


QUESTIONS = [Question(model, name(scan), seed) for model in MODELS for scan in range(SCANS) for seed in SEEDS]


def ask(port: int, question: Question) -> Answer:
    """Send a request as MONAI Label's plugins do, and take its answer apart."""
    words = {"result_extension": ".nrrd", "result_dtype": "uint8", "seed": question.seed}
    body = urllib.parse.urlencode({"params": json.dumps(words)}).encode()
    url = f"http://127.0.0.1:{port}/infer/{question.model}?image={question.scan}"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=600) as answer:
        kind, content = answer.headers["Content-Type"], answer.read()
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
    numbers, file = (part.get_payload(decode=True) for part in message.get_payload())
    return Answer(file, json.dumps(json.loads(numbers)["volume_ml"], sort_keys=True))


def compare(port: int, question: Question, expected: Answer) -> str:
    """Return how a request ended."""
    try:
        return "right" if ask(port, question) == expected else "another answer"
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except Exception as error:  # told in the table
        return f"{type(error).__name__}: {error}"


def endure_requests(count: int, clients: int, folder: Path) -> tuple[str, list[str]]:
    """Ask a server ``count`` times; return the figures in Markdown and what was wrong, in words."""
    parts = {part: folder / part for part in ("source", "site", "bundles", "temporary")}
    for part in parts.values():
        part.mkdir()
    python, studies, log = make_environment(), folder / "studies", folder / "server.log"
    site, app = install_package(python, parts["source"], parts["site"]), copy_app(folder / "app")
    bundle = copy_bundle(BUNDLE, parts["bundles"], SIZE)
    make_scans(studies, SCANS, SIZE)
    words = ["--app", app, "--studies", studies, "--conf", "bundles", bundle]
    few = ["--conf", "members", 2, "--conf", "num_steps", 1]
    settings = {"TMPDIR": str(parts["temporary"])}
    process, port = start_server(python, site, app, log, *words, *few, settings=settings)
    try:
        wait_until_ready(process, port, log)
        return _endure(process.pid, port, count, clients, parts["temporary"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _endure(pid: int, port: int, count: int, clients: int, temporary: Path) -> tuple[str, list[str]]:
    expected = {question: ask(port, question) for question in QUESTIONS}  # one after the other
    wrong = []
    if len({answer.file for question, answer in expected.items() if question.seed == 0}) < SCANS * len(MODELS):
        wrong.append("the answers of two scans are alike, so nothing could be told")
    random.seed(0)
    questions = random.choices(QUESTIONS, k=count)
    every, outcomes, done, samples = max(1, count // SAMPLES), Counter(), [0], [usage(pid, temporary)]
    begin, seconds = time.monotonic(), []
    with ThreadPoolExecutor(clients) as pool:
        pending = [pool.submit(_timed, port, question, expected[question]) for question in questions]
        for number, future in enumerate(as_completed(pending), start=1):
            outcome, took = future.result()
            outcomes[outcome] += 1
            seconds.append(took)
            if number % every == 0 and number < count:
                done.append(number)
                samples.append(usage(pid, temporary))
    total = time.monotonic() - begin
    time.sleep(2)  # for what the server removes after an answer
    done.append(count)
    samples.append(usage(pid, temporary))
    wrong += [f"{times} requests: {what}" for what, times in outcomes.items() if what != "right"]
    grown = growth(done, samples)
    middle, longest = np.median(seconds), max(seconds)
    text = (
        f"{count} requests from {clients} clients at once in {total:.0f} s: {outcomes['right']} answers are, byte for "
        f"byte, those of the same question asked alone; each took {middle:.1f} s (median), {longest:.1f} s at most.\n\n"
    )
    return text + table("requests", done, samples, grown), wrong + beyond(grown)


def _timed(port: int, question: Question, expected: Answer) -> tuple[str, float]:
    begin = time.monotonic()
    return compare(port, question, expected), time.monotonic() - begin
