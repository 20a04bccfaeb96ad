"""What a web page of another site can do with a model on the box, in a real browser: headless Chromium.

The other site's name leads to this machine, so nothing but the server's own answers keeps its pages out. A page of
localhost shows that the same requests are answered where they are allowed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

from tests.box.deployment import Deployment

pytestmark = [pytest.mark.box, pytest.mark.long]

BROWSER_S = 120
PAGE = """<!doctype html><title>A page of some site</title><script>
const body = JSON.stringify({prompt: "Hello", n_predict: 1});
async function attempt(path, init) {
  try {
    const answer = await fetch(SERVER + path, init);
    return `read ${answer.status}`;
  } catch (error) {
    return "refused";
  }
}
(async () => {
  const found = {
    slots: await attempt("/slots"),
    json: await attempt("/completion", {method: "POST", headers: {"Content-Type": "application/json"}, body}),
    text: await attempt("/completion", {method: "POST", headers: {"Content-Type": "text/plain"}, body}),
  };
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""

Found = dict[str, str]


class Site:
    """A web site with one page, which tries the server and posts what came of it."""

    def __init__(self, server: str) -> None:
        self.found: Queue[Found] = Queue()
        site, page = self, PAGE.replace("SERVER", json.dumps(server)).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(page if self.path == "/" else b"")

            def do_POST(self) -> None:
                site.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(b"")

            def _answer(self, content: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port


@contextmanager
def site_for(server: str) -> Iterator[Site]:
    site = Site(server)
    Thread(target=site.http.serve_forever, daemon=True).start()
    try:
        yield site
    finally:
        site.http.shutdown()
        site.http.server_close()


def opened(url: str, site: Site, profile: Path) -> Found:
    """What the page found out in the browser; names under .example lead to this machine."""
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--no-proxy-server",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP *.example 127.0.0.1",
        url,
    ]
    with (profile.parent / f"{profile.name}.log").open("wb") as log:
        browser = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(profile))
        try:
            return site.found.get(timeout=BROWSER_S)
        except Empty:
            pytest.fail(f"the page sent nothing within {BROWSER_S} s: {Path(log.name).read_text(errors='replace')}")
        finally:
            browser.kill()
            browser.wait()


def _environment(profile: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(profile), "XDG_CONFIG_HOME": str(profile), "XDG_CACHE_HOME": str(profile)}


def test_a_page_of_another_site_reads_nothing(deployment: Deployment, tmp_path: Path) -> None:
    with site_for(deployment.address) as site:
        foreign = opened(f"http://news.example:{site.port}/", site, tmp_path / "foreign")
        own = opened(f"http://localhost:{site.port}/", site, tmp_path / "own")
    # The text is sent, as browsers do without asking, and computed; its answer is not handed to the page.
    assert set(foreign.values()) == {"refused"}
    assert set(own.values()) == {"read 200"}


def test_a_declared_origin_may_use_the_server(variant: Deployment, tmp_path: Path) -> None:
    with site_for(variant.address) as site:
        variant.rig["models"][0]["serve"]["cors_origins"] = [f"http://chat.example:{site.port}"]
        outcome = variant.run()
        assert outcome.code == 0, str(outcome)
        declared = opened(f"http://chat.example:{site.port}/", site, tmp_path / "declared")
        foreign = opened(f"http://news.example:{site.port}/", site, tmp_path / "foreign")
    assert declared["json"] == "read 200"
    assert set(foreign.values()) == {"refused"}
