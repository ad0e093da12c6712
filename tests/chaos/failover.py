#!/usr/bin/env python3
"""Failover over real sockets: two services elsewhere, of which the first is killed, frozen and broken under load.

    python3 tests/chaos/failover.py PATH/TO/lacuna [--seconds 4] [--clients 8]

Starts the services (this file with --stub) and `lacuna serve` with a route over both, asks without pause, half of the
clients as streams, and does something to the first service every few seconds. Prints what became of the requests in
each phase, and ends with 1 where a request that the second service could have answered was lost, where a broken service
was called more often than a breaker allows, or where it was not asked again once it was back. Times are printed and
decide nothing. Needs Python's own library only, and ends by itself.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER_TIME = 0.02
PROBE_INTERVAL = 0.5
# Five failures open a breaker; calls that were under way by then fail too, and each probe interval adds one.
FAILURES_TO_OPEN = 10
CUTS = "cuts streams"
SETTINGS = """
[server]
port = 0
[metrics]
address = "off"
[log]
format = "json"
[model]
source = "none"
[routing]
probe_interval = "{probe_interval}ms"
[[providers]]
name = "first"
protocol = "openai-completions"
url = "http://127.0.0.1:{first}/v1"
model = "m"
fim = "suffix"
[[providers]]
name = "second"
protocol = "openai-completions"
url = "http://127.0.0.1:{second}/v1"
model = "m"
fim = "suffix"
[[routes]]
name = "all"
  [[routes.targets]]
  target = "first"
  [[routes.targets]]
  target = "second"
"""


# --- A service elsewhere ---------------------------------------------------------------------------------------------


class Stub(BaseHTTPRequestHandler):
    """Speaks enough of OpenAI's completions, in the way that `POST /mode` said last."""

    protocol_version = "HTTP/1.1"
    # Else the kernel holds the second piece back until the first is acknowledged, which takes 40 ms.
    disable_nagle_algorithm = True
    mode = "well"
    calls = None

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/mode":
            Stub.mode = body.decode()
            self.reply(200, b"{}")
            return
        os.write(Stub.calls, b".")
        time.sleep(ANSWER_TIME)
        if Stub.mode == "fails":
            self.reply(500, b'{"error": {"message": "no"}}')
        elif Stub.mode == "exhausted":
            self.reply(429, b'{"error": {"message": "no"}}', {"Retry-After": "1"})
        elif Stub.mode == "hangs":
            time.sleep(60)
        else:
            self.stream(is_whole=Stub.mode != "cuts")

    def reply(self, status, body, headers={}):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, is_whole):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.piece('data: {"choices": [{"index": 0, "text": "a + "}]}\n\n')
        if not is_whole:
            self.close_connection = True
            return
        self.piece('data: {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')
        self.wfile.write(b"0\r\n\r\n")

    def piece(self, text):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text.encode()))


def serve_stub(port, calls):
    Stub.calls = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 128
    # Who is hung up on says nothing about it.
    ThreadingHTTPServer.handle_error = lambda *_: None
    ThreadingHTTPServer(("127.0.0.1", port), Stub).serve_forever()


class Service:
    """A stub in a process of its own, which can be killed, frozen and told how to behave."""

    def __init__(self, folder, name):
        self.calls = os.path.join(folder, name)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self):
        command = [sys.executable, __file__, "--stub", str(self.port), "--calls", self.calls]
        self.process = subprocess.Popen(command)
        wait_for(lambda: connects(self.port), "a stub")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def behave(self, mode):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/mode", mode)
        connection.getresponse().read()

    def num_calls(self):
        return os.path.getsize(self.calls) if os.path.exists(self.calls) else 0


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def wait_for(is_so, what):
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.05)
    sys.exit(f"{what} did not come up in 30 s")


# --- Clients ---------------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask without pause. Each result is (when it was asked, whether as a stream, seconds, what failed)."""

    def __init__(self, port, num_clients):
        self.port = port
        self.results = []
        self.is_over = False
        self.threads = [threading.Thread(target=self.ask_on, args=(index,)) for index in range(num_clients)]
        for thread in self.threads:
            thread.start()

    def end(self):
        self.is_over = True
        for thread in self.threads:
            thread.join()

    def ask_on(self, index):
        connection = None
        is_stream = index % 2 == 0
        while not self.is_over:
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            began = time.monotonic()
            failure = None
            try:
                failure = ask(connection, is_stream)
            except (OSError, http.client.HTTPException) as error:
                failure = type(error).__name__
            if failure:
                connection.close()
                connection = None
            self.results.append((began, is_stream, time.monotonic() - began, failure))


def ask(connection, is_stream):
    """Returns what failed, if anything did."""
    body = {"model": "first", "prompt": "x = ", "suffix": "\n", "max_tokens": 8, "stream": is_stream}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        return f"status {answer.status}"
    if is_stream:
        return None if text.rstrip().endswith("data: [DONE]") and '"error"' not in text else "cut"
    return None if json.loads(text)["choices"][0]["text"] == "a + b" else "wrong text"


# --- The run ---------------------------------------------------------------------------------------------------------


class Gateway:
    def __init__(self, program, folder, first, second):
        settings = os.path.join(folder, "lacuna.toml")
        interval = int(PROBE_INTERVAL * 1000)
        with open(settings, "w") as file:
            file.write(SETTINGS.format(first=first.port, second=second.port, probe_interval=interval))
        self.log = open(os.path.join(folder, "log"), "w+")
        self.process = subprocess.Popen(
            [program, "serve", "--config", settings], stdout=subprocess.DEVNULL, stderr=self.log
        )
        self.port = None
        wait_for(self.listens, "lacuna")

    def lines(self):
        self.log.seek(0)
        return [json.loads(line) for line in self.log if line.endswith("\n")]

    def listens(self):
        if self.process.poll() is not None:
            sys.exit(f"lacuna ended with {self.process.returncode}")
        for line in self.lines():
            if line.get("message") == "serving":
                self.port = int(line["address"].rsplit(":", 1)[1])
        return self.port is not None

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)


def phases(first):
    """Name, what is done to the first service, and whether it does well from then on."""
    return [
        ("well", lambda: None, True),
        ("killed", first.kill, False),
        ("started again", first.start, True),
        ("frozen", first.freeze, False),
        ("thawed", first.thaw, True),
        ("fails (500)", lambda: first.behave("fails"), False),
        ("well again", lambda: first.behave("well"), True),
        ("used up (429)", lambda: first.behave("exhausted"), False),
        ("well again", lambda: first.behave("well"), True),
        ("hangs", lambda: first.behave("hangs"), False),
        ("well again", lambda: first.behave("well"), True),
        (CUTS, lambda: first.behave("cuts"), False),
        ("well again", lambda: first.behave("well"), True),
    ]


def quantile(sorted_times, share):
    return sorted_times[min(len(sorted_times) - 1, int(len(sorted_times) * share))] * 1000


def run(program, seconds, num_clients):
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        first, second = Service(folder, "first"), Service(folder, "second")
        marks, clock = [], []
        try:
            gateway = Gateway(program, folder, first, second)
            load = Load(gateway.port, num_clients)
        except BaseException:
            first.kill()
            second.kill()
            raise
        try:
            for name, act, is_well in phases(first):
                before = (first.num_calls(), second.num_calls())
                act()
                began = time.monotonic()
                time.sleep(seconds)
                after = (first.num_calls(), second.num_calls())
                marks.append((name, is_well, began, after[0] - before[0], after[1] - before[1]))
                clock.append(time.time() - (time.monotonic() - began))
        finally:
            load.end()
            code = gateway.stop()
            num_calls = first.num_calls() + second.num_calls()
            first.kill()
            second.kill()
        if code != 0:
            faults.append(f"lacuna ended with {code}")
        report(load.results, marks, seconds, num_clients, faults)
        share = num_calls / max(1, len(load.results)) - 1
        print(f"\n{len(load.results)} requests, {num_calls} calls that reached a service: {100 * share:+.1f} %")
        if share > 0.1:
            faults.append("more than a tenth of extra calls")
        tell_breaker(gateway.lines(), marks, clock, seconds, faults)
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


def report(results, marks, seconds, num_clients, faults):
    print(f"{'first service':16}{'asked':>8}{'served':>8}{'lost':>6}{'cut':>5}{'p50 ms':>9}{'p99 ms':>9}{'p99 ÷ well':>12}{'first':>8}{'second':>8}")
    baseline = None
    # What a client has seen of a stream cannot be taken back; it may have been asked for just before.
    cutting = next(began for name, _, began, *_ in marks if name == CUTS)
    cuts = [it for it in results if it[1] and it[3] == "cut" and cutting - 1 < it[0] and cutting - 0.1 < it[0] + it[2] < cutting + seconds]
    for index, (name, is_well, began, to_first, to_second) in enumerate(marks):
        ends = marks[index + 1][2] if index + 1 < len(marks) else float("inf")
        mine = [result for result in results if began <= result[0] < ends]
        times = sorted(result[2] for result in mine if not result[3])
        cut = [result for result in mine if result in cuts]
        lost = [result for result in mine if result[3] and result not in cut]
        if not times:
            faults.append(f"{name}: nothing was served")
            continue
        p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
        baseline = baseline or p99
        print(f"{name:16}{len(mine):8}{len(times):8}{len(lost):6}{len(cut):5}{p50:9.1f}{p99:9.1f}{p99 / baseline:12.2f}{to_first:8}{to_second:8}")
        if lost:
            kinds = sorted({result[3] for result in lost})
            faults.append(f"{name}: {len(lost)} requests were lost ({', '.join(kinds)})")
        allowed = FAILURES_TO_OPEN + num_clients + 2 * (seconds / PROBE_INTERVAL + 1)
        if not is_well and max(to_first, len(cut)) > allowed:
            faults.append(f"{name}: the first service was called {to_first} times, at most {allowed:.0f} were to be")
        if is_well and index > 0 and to_first < to_second:
            faults.append(f"{name}: the first service was not asked again")


def tell_breaker(lines, marks, clock, seconds, faults):
    """Prints how long after each change the breaker of the first service went along."""
    moves = [
        (datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00")).timestamp(), line["to"])
        for line in lines
        if line.get("message") == "breaker" and line["name"] == "first"
    ]
    print("\nits breaker")
    for (name, is_well, *_), began in list(zip(marks, clock))[1:]:
        wanted = "closed" if is_well else "open"
        at = next((at - began for at, to in moves if to == wanted and 0 <= at - began < seconds), None)
        print(f"  {name:16}{wanted:>8} " + ("never" if at is None else f"after {1000 * at:5.0f} ms"))
        if at is None:
            faults.append(f"{name}: its breaker was never {wanted}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?")
    parser.add_argument("--seconds", type=float, default=4, help="time of a phase")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--stub", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--calls", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stub:
        serve_stub(arguments.stub, arguments.calls)
    if not arguments.program:
        parser.error("the program to try is missing")
    sys.exit(run(arguments.program, arguments.seconds, arguments.clients))


if __name__ == "__main__":
    main()
