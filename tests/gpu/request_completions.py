"""Request a completion from every model of tests/gpu/inventory.py, and list the memory in use on the card."""

from __future__ import annotations

import json
import subprocess
import urllib.request

FIRST_PORT, MODELS = 18100, 6


def main() -> None:
    """Print one line per model: its name (the placement), and tokens per second of the prompt and the completion."""
    for port in range(FIRST_PORT, FIRST_PORT + MODELS):
        body = {"messages": [{"role": "user", "content": "Say hello. " * 200}], "max_tokens": 64, "temperature": 0}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
        timings = answer["timings"]
        print(
            f"{answer['model']:<12} prompt {timings['prompt_per_second']:8.0f} t/s of {timings['prompt_n']} tokens, "
            f"completion {timings['predicted_per_second']:6.0f} t/s of {timings['predicted_n']} tokens"
        )
    query = "--query-compute-apps=pid,name,used_memory"
    print(subprocess.run(["nvidia-smi", query, "--format=csv"], capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
