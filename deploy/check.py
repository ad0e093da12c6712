"""Checks the rules, their tests and the dashboards' queries with Prometheus's own tool: check.py PROMTOOL

Exits with 0 if promtool takes all of them and the tests hold.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# What Grafana puts in the place of its variables, as far as it matters to a parser.
INTERVAL = re.compile(r"\$__rate_interval\b|\$__interval\b")
VARIABLE = re.compile(r"\$\{?\w+\}?")


def promtool(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"promtool {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}")


def queries():
    for path in sorted(HERE.glob("grafana/*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield VARIABLE.sub("some", INTERVAL.sub("5m", target["expr"]))


def main():
    program = sys.argv[1]
    rules = sorted(HERE.glob("prometheus/*.yml"))
    tests = sorted(HERE.glob("prometheus/tests/*.yml"))
    assert rules and tests, f"nothing to check below {HERE}"
    promtool(program, "check", "rules", *rules)
    promtool(program, "test", "rules", *tests)
    # promtool reads rules, and JSON is YAML: each query becomes one.
    records = [{"record": f"query:{index}", "expr": expr} for index, expr in enumerate(queries())]
    assert records, "the dashboards ask for nothing"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "queries.yml")
        file.write_text(json.dumps({"groups": [{"name": "queries", "rules": records}]}))
        promtool(program, "check", "rules", file)
    print(f"{len(rules)} files of rules, {len(tests)} of tests and {len(records)} queries of dashboards hold")


main()
