"""Send thousands of requests from several clients to the MONAI Label app, and watch its process."""

from __future__ import annotations

import email
import json
import random
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

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "apps"))
from label_server import phantom_server

BUNDLE = "phantom_segmentation"
SIZE = [16, 16, 16]
SCANS, SEEDS, MODELS = 16, (0, 1), (BUNDLE, f"{BUNDLE}_uncertainty")
SAMPLES = 40  # of the usage


class Question(NamedTuple):
    """Content of a request."""

    model: str
    scan: str
    seed: int


class Answer(NamedTuple):
    """Label map file and volumes of an answer."""

    file: bytes
    volumes: str


QUESTIONS = [Question(model, name(scan), seed) for model in MODELS for scan in range(SCANS) for seed in SEEDS]


def ask(port: int, question: Question) -> Answer:
    """Send a request as the plugins of MONAI Label do."""
    words = {"result_extension": ".nrrd", "result_dtype": "uint8", "seed": question.seed}
    body = urllib.parse.urlencode({"params": json.dumps(words)}).encode()
    url = f"http://127.0.0.1:{port}/infer/{question.model}?image={question.scan}"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=600) as answer:
        kind, content = answer.headers["Content-Type"], answer.read()
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
    numbers, file = (part.get_payload(decode=True) for part in message.get_payload())
    return Answer(file, json.dumps(json.loads(numbers)["volume_ml"], sort_keys=True))


def compare(port: int, question: Question, expected: Answer) -> str:
    """Send a request and compare its answer; return "right" or a description."""
    try:
        return "right" if ask(port, question) == expected else "another answer"
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def endure_requests(count: int, clients: int, folder: Path) -> tuple[str, list[str]]:
    """Send ``count`` requests to a server; return the figures in Markdown and the faults."""
    with phantom_server(folder, lambda studies: make_scans(studies, SCANS, SIZE)) as (pid, port, _, _):
        return _endure(pid, port, count, clients, folder / "temporary")


def _endure(pid: int, port: int, count: int, clients: int, temporary: Path) -> tuple[str, list[str]]:
    expected = {question: ask(port, question) for question in QUESTIONS}  # one at a time
    wrong = []
    if len({answer.file for question, answer in expected.items() if question.seed == 0}) < SCANS * len(MODELS):
        wrong.append("two scans have equal answers, expected different ones")
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
    time.sleep(2)  # the server removes files after an answer
    done.append(count)
    samples.append(usage(pid, temporary))
    wrong += [f"{times} requests: {what}" for what, times in outcomes.items() if what != "right"]
    grown = growth(done, samples)
    middle, longest = np.median(seconds), max(seconds)
    text = (
        f"{count} requests from {clients} clients in {total:.0f} s: {outcomes['right']} answers equal those of the "
        f"same request alone; median {middle:.1f} s, maximum {longest:.1f} s.\n\n"
    )
    return text + table("requests", done, samples, grown), wrong + beyond(grown)


def _timed(port: int, question: Question, expected: Answer) -> tuple[str, float]:
    begin = time.monotonic()
    return compare(port, question, expected), time.monotonic() - begin
