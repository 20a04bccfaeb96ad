#!/usr/bin/python3
"""Stand-in for nvidia-smi on boxes without a GPU: answers as two H200s did, with the settings made through it.

Power limits and persistence mode are kept in /run, so a reboot resets them, as it does on real cards. While
/run/ignore-power-limits exists, a power limit is accepted but not applied. /run/cards-drift.json overrides answers:
card number -> column number -> value, or null for a card that is gone; or a string, the driver's error message.
"""

import json
import pathlib
import sys

STATE = pathlib.Path("/run/cards.json")
DRIFT = pathlib.Path("/run/cards-drift.json")
CARDS = (
    "0, GPU-abb3f99e-7dc8-fb04-7f9d-6c963a49df37, NVIDIA H200, 143771, 143156, 9.0, 580.159.04, 00000000:00:06.0, "
    "5, 5, 16, 16, {limit:.2f}, 700.00, 200.00, 700.00, {persistence}, Disabled, P0, 0x0000000000000001, 0",
    "1, GPU-4cca22c5-5bea-e393-bf5c-75204854eb28, NVIDIA H200, 143771, 143156, 9.0, 580.159.04, 00000000:00:07.0, "
    "5, 5, 16, 16, {limit:.2f}, 700.00, 200.00, 700.00, {persistence}, Disabled, P0, 0x0000000000000001, 0",
)


def main() -> None:
    """Answer the options that the fact and the unit use."""
    state = json.loads(STATE.read_text()) if STATE.exists() else {}
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    if "--query-gpu" in options:
        drift = json.loads(DRIFT.read_text()) if DRIFT.exists() else {}
        if isinstance(drift, str):
            print(drift)
            sys.exit(18)
        for line in CARDS:
            uuid = line.split(", ")[1]
            card = state.get(uuid, {"limit": 700.0, "persistence": "Disabled"})
            words = line.format(**card).split(", ")
            other = drift.get(words[0], {})
            if other is not None:
                print(", ".join(other.get(str(column), word) for column, word in enumerate(words)))
        return
    uuid = options["--id"]
    if not any(uuid in line for line in CARDS):
        print("No devices were found")
        sys.exit(6)
    card = state.setdefault(uuid, {"limit": 700.0, "persistence": "Disabled"})
    if "--persistence-mode" in options:
        card["persistence"] = {"0": "Disabled", "1": "Enabled"}[options["--persistence-mode"]]
    if "--power-limit" in options and not pathlib.Path("/run/ignore-power-limits").exists():
        card["limit"] = float(options["--power-limit"])
    STATE.write_text(json.dumps(state))


main()
