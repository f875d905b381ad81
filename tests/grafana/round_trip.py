"""Reads dashboards with the types of Grafana's own SDK and writes them again: what Grafana does not know is not there any more.

Usage: round_trip.py FILE...    (the SDK in PYTHONPATH; prints each value that was lost or changed, and exits with 1 then)
"""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(path, before, after):
    """The paths of what is in the one and not, or otherwise, in the other."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from lost(f"{path}.{key}", value, after[key])
            else:
                yield f"{path}.{key}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after)):
            yield from lost(f"{path}[{number}]", one, other)
    elif before != after:
        yield path


register_default_plugins()
failed = False
for file in sys.argv[1:]:
    with open(file, encoding="utf-8") as text:
        before = json.load(text)
    after = json.loads(JSONEncoder().encode(Dashboard.from_json(before)))
    for path in lost("", before, after):
        failed = True
        print(f"{file}: {path}")
sys.exit(failed)
