"""Sends what a server's own description allows, and what it forbids: openapi_fuzz.py http://127.0.0.1:5052

Exits with 0 if schemathesis finds no answer of 5xx, none that the description does not have, and none of success to
what it forbids. That all which it allows is accepted is not asked: no schema says which members belong together.
"""

import pathlib
import subprocess
import sys
import tempfile

# An unsigned server has no token to give, and its answer, the original's, is a 500.
NEEDS_A_KEY = "/v1/code/user_access_token"
# Their descriptions are too deep for the generator of edge cases, which ends in an error of its own (Python's limit of
# recursion); random requests are made of them all the same.
DEEP = ("/v1/chat/completions", "/v1/completions")
UNASKED = "positive_data_acceptance"


def fuzz(url, phases, *options):
    # Not resolved: the environment's own Python is a link.
    program = pathlib.Path(sys.executable).absolute().with_name("schemathesis")
    config = pathlib.Path(__file__).resolve().with_suffix(".toml")
    command = [
        program, f"--config-file={config}", "run", f"{url}/openapi.json", "--no-color", "--generation-deterministic", "--continue-on-failure",
        "--max-examples=30", "--request-timeout=30", "--workers=2", "--warnings=off", f"--phases={phases}", *options,
    ]
    # It keeps notes where it runs.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    print("\n".join(done.stdout.splitlines()[-6:]))
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")


def main():
    url = sys.argv[1]
    fuzz(url, "fuzzing", f"--exclude-path={NEEDS_A_KEY}", f"--exclude-checks={UNASKED}")
    others = [f"--exclude-path={path}" for path in (NEEDS_A_KEY, *DEEP)]
    fuzz(url, "coverage", *others, f"--exclude-checks={UNASKED}")
    fuzz(url, "fuzzing", f"--include-path={NEEDS_A_KEY}", f"--exclude-checks={UNASKED},not_a_server_error")
    print("every answer is one that the description has")


main()
