"""Writes a request with two spans as OpenTelemetry's own library writes it: otlp.bin, which src/export/tests.rs must write to the byte.

usage: make_otlp.py [--out tests/golden/otlp.bin]
Made with the versions of requirements.txt.
"""
import argparse
import os

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

HERE = os.path.dirname(os.path.abspath(__file__))
TRACE_ID = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
BEGAN = 1_700_000_000_000_000_000


def attribute(into, key, **value):
    pair = into.add()
    pair.key = key
    for kind, what in value.items():
        setattr(pair.value, kind, what)


def request():
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    attribute(resource.resource.attributes, "service.name", string_value="lacuna")
    attribute(resource.resource.attributes, "service.version", string_value="1.2.3")
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "lacuna", "1.2.3"

    root = scope.spans.add(trace_id=TRACE_ID, span_id=bytes.fromhex("00000000000000b7"), name="POST /v1/completions")
    root.kind, root.flags = Span.SPAN_KIND_SERVER, 1
    root.start_time_unix_nano, root.end_time_unix_nano = BEGAN, BEGAN + 2_500_000_000
    attribute(root.attributes, "http.response.status_code", int_value=200)
    attribute(root.attributes, "below", int_value=-1)
    attribute(root.attributes, "zero", int_value=0)
    attribute(root.attributes, "share", double_value=0.25)
    attribute(root.attributes, "no", bool_value=False)
    attribute(root.attributes, "yes", bool_value=True)
    attribute(root.attributes, "empty", string_value="")
    attribute(root.attributes, "long", string_value="\u00e9" * 100)

    child = scope.spans.add(trace_id=TRACE_ID, span_id=bytes.fromhex("ffffffffffffffff"), name="chat demo")
    child.parent_span_id, child.kind, child.flags = root.span_id, Span.SPAN_KIND_CLIENT, 1
    child.start_time_unix_nano, child.end_time_unix_nano = BEGAN + 1, BEGAN + 3
    event = child.events.add(time_unix_nano=BEGAN + 2, name="first text")
    attribute(event.attributes, "choice", int_value=300)
    child.status.code = Status.STATUS_CODE_ERROR
    return request


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=os.path.join(HERE, "otlp.bin"))
    with open(parser.parse_args().out, "wb") as file:
        file.write(request().SerializeToString())
