"""
A plugin that tells what it was given, and then does what its configuration says, or the real plugin.

It is written into a directory with what it has to know, `RECORDS` and `REAL`, put before it.
"""

import json
import os
import subprocess
import sys

RECORDS = ""
"""The directory with a file a call."""
REAL: "str | None" = None
"""The plugin that does it."""


def told(given: bytes) -> "tuple[bytes, int]":
    """What the configuration says: an error, a result, or what came before."""
    config = json.loads(given or b"{}")
    verb = os.environ["CNI_COMMAND"]
    if verb in config.get("fails", {}):
        error = config["fails"][verb]
        if error is None:  # it crashes
            return b"", 2
        return json.dumps({"cniVersion": config["cniVersion"], **error}).encode(), 1
    info = config.get("runtimeConfig", {}).get("CNIDeviceInfoFile")
    if verb == "ADD" and info and "writes" in config:
        os.makedirs(os.path.dirname(info), exist_ok=True)
        with open(info, "w") as file:
            json.dump(config["writes"], file)
    if verb == "VERSION":
        return b'{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}', 0
    answer = config.get("answer", config.get("prevResult", {}))
    return (json.dumps({**answer, "cniVersion": config["cniVersion"]}).encode() if verb == "ADD" else b""), 0


def main() -> int:
    """One call."""
    given = sys.stdin.buffer.read()
    variables = {name: text for name, text in os.environ.items() if name.startswith("CNI_")}
    number = len(os.listdir(RECORDS))
    record = {"type": os.path.basename(sys.argv[0]), "variables": variables, "stdin": given.decode()}
    with open(os.path.join(RECORDS, f"{number:03}"), "w") as file:
        json.dump(record, file)
    if REAL is not None:
        done = subprocess.run([REAL], input=given, stdout=subprocess.PIPE)
        answer, code = done.stdout, done.returncode
    else:
        answer, code = told(given)
    sys.stdout.buffer.write(answer)
    return code


if __name__ == "__main__":
    sys.exit(main())
