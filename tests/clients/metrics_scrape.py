"""Reads a server's metrics as strictly as Prometheus's own Python client does: metrics_scrape.py http://127.0.0.1:5052

The address of metrics is taken from the variable METRICS_URL. Requests are made first, a failed one among them, so that there
is something to read. Exits with 0 if every line is of the format, every histogram is one, and what was asked is counted.
"""

import json
import os
import sys
import urllib.error
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict_families
from prometheus_client.parser import text_string_to_metric_families as families

GAP = {"prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n", "max_tokens": 8}
GITLAB = {
    "prompt_version": 1,
    "project_path": "group/project",
    "project_id": 1,
    "current_file": {"file_name": "a.py", "content_above_cursor": GAP["prompt"], "content_below_cursor": GAP["suffix"]},
}
# What a scrape must not say: the text of a request, in whatever label.
MARKER = "m4rk3r"


def post(url, body, **headers):
    head = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), head), timeout=60) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def scrape(url):
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", answer.headers
        return answer.read().decode()


def as_openmetrics(page):
    """Returns the page in the stricter format: there a counter's family lacks `_total`, and the end is marked."""
    lines = []
    for line in page.splitlines():
        mark, kind, *rest = line.split(" ", 3)
        if mark == "#" and rest[0].endswith("_total"):
            line = " ".join([mark, kind, rest[0].removesuffix("_total"), *rest[1:]])
        lines.append(line)
    return "\n".join([*lines, "# EOF\n"])


def values(page):
    return {(s.name, frozenset(s.labels.items())): s.value for family in families(page) for s in family.samples}


def total(samples, name, **labels):
    return sum(value for (other, found), value in samples.items() if other == name and labels.items() <= dict(found).items())


def main():
    url, metrics_url = sys.argv[1].rstrip("/"), os.environ["METRICS_URL"].rstrip("/")
    before = values(scrape(metrics_url))
    asked = [
        (200, f"{url}/v1/completions", GAP, {}),
        (200, f"{url}/v1/completions", {**GAP, "stream": True}, {}),
        (200, f"{url}/v2/code/completions", GITLAB, {"X_Gitlab_Client_Name": "Visual Studio Code", "X_Gitlab_Client_Type": "ide"}),
        (400, f"{url}/v1/completions", {**GAP, "max_tokens": -1}, {}),
        (404, f"{url}/v1/completions", {**GAP, "model": MARKER}, {}),
        (404, f"{url}/{MARKER}", GAP, {"X_Gitlab_Client_Name": MARKER, "X_Gitlab_Language_Server_Version": f'{MARKER}"}} 1'}),
    ]
    for status, *request, headers in asked:
        found = post(*request, **headers)
        assert found == status, (request[0], found)
    page = scrape(metrics_url)
    assert MARKER not in page, [line for line in page.splitlines() if MARKER in line]

    # The format's own reader first, then the stricter one: types, order, borders, cumulative counts, no series twice.
    after = values(page)
    read = list(strict_families(as_openmetrics(page)))
    assert len(read) > 30, len(read)
    for family in read:
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram"), family
        for sample in family.samples:
            assert family.type == "gauge" or sample.value >= 0, sample

    def grown(name, **labels):
        return total(after, name, **labels) - total(before, name, **labels)

    rows = [
        (3, grown("lacuna_requests_total", outcome="ok")),
        (1, grown("lacuna_clients_total", client="vscode", outcome="ok")),
        (3, grown("lacuna_time_to_first_token_seconds_count")),
        (3, grown("lacuna_engine_queue_wait_seconds_count")),
        (2, grown("http_request_duration_seconds_count", handler="/v1/completions", status="4xx")),
        (1, grown("http_request_duration_seconds_count", handler="none")),
        (2, grown("inference_request_duration_seconds_bucket", le="+Inf", streaming="no")),
    ]
    for expected, found in rows:
        assert found == expected, rows
    steps, counted = (total(after, f"lacuna_engine_{name}") for name in ("steps_total", "step_sequences_count"))
    assert steps == counted > 0, (steps, counted)
    print(f"{len(read)} families and {len(after)} samples are of the format, and what was asked is counted")


main()
