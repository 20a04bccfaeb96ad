"""The front's service: switches by the model of requests, streams byte for byte, and lets clients hang up."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import time

from tests.remote.front.front_box import FrontBox, eventually
from tests.remote.front.model_stand_in import chunk


def test_a_request_starts_its_model_and_the_next_one_switches(box: FrontBox) -> None:
    for model in ("a", "b", "a"):
        status, answer = box.ask(model)
        assert (status, answer["model"]) == (200, model)
    assert [line for line in box.noted() if line.startswith("up")] == ["up a", "up b", "up a"]
    states = box.states()
    assert (states["a"], states["b"]) == ("loaded", "stopped")


def test_models_that_coexist_stay_loaded(box: FrontBox) -> None:
    for model in ("a", "embed", "a", "embed"):
        assert box.ask(model)[0] == 200
    assert [line for line in box.noted() if line.startswith("up")] == ["up a", "up embed"]


def test_a_stream_comes_byte_for_byte(box: FrontBox) -> None:
    box.ask("a")
    with box.stream("a", chunks=20) as response:
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/event-stream"
        assert response.read() == b"".join(chunk("a", number) for number in range(20)) + b"data: [DONE]\n\n"


def test_a_stream_comes_as_it_is_made(box: FrontBox) -> None:
    box.ask("a")
    with box.stream("a", chunks=3, pause=1) as response:
        began = time.monotonic()
        assert response.read1() == chunk("a", 0)
        assert time.monotonic() - began < 0.9


def test_a_stream_that_waits_for_a_load_gets_comments_in_words(box: FrontBox) -> None:
    unit = box.root / "units/llamarig-b.service"
    unit.write_text(unit.read_text().rstrip() + " --loads 2\n")
    box.systemctl("daemon-reload")
    with box.stream("b", chunks=2) as response:
        content = response.read()
    comments, _, answer = content.partition(b"data: ")
    assert b": loading b for 1 s, this request is next\n\n" in comments
    assert all(line.startswith(b": ") for line in comments.split(b"\n\n") if line)
    assert b"data: " + answer == chunk("b", 0) + chunk("b", 1) + b"data: [DONE]\n\n"


def test_a_model_that_cannot_start_gives_its_reason_and_the_one_before_comes_back(box: FrontBox) -> None:
    box.ask("a")
    status, headers, content = box.request("POST", "/v1/chat/completions", b'{"model": "broken"}')
    assert status == 503
    assert int(headers["retry-after"]) > 0
    assert "broken does not start: " in json.loads(content)["error"]["message"]
    assert eventually(20, lambda: box.states()["a"] == "loaded")


def test_requests_under_way_end_before_their_model_is_stopped(box: FrontBox) -> None:
    box.ask("a")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(box.ask, "a", chunks=4, pause=0.5)
        assert eventually(10, lambda: box.noted()[-1] == "begin a")
        waiting = pool.submit(box.ask, "b")
        assert running.result()[0] == waiting.result()[0] == 200
    assert box.noted()[-5:] == ["begin a", "end a", "up b", "begin b", "end b"]


def test_a_client_that_hangs_up_frees_its_slot_at_once(box: FrontBox) -> None:
    box.ask("a")
    with box.stream("a", chunks=1000, pause=0.1) as response:
        assert response.read1() == chunk("a", 0)
        assert box.noted()[-1] == "begin a"
    assert eventually(2, lambda: box.noted()[-1] == "end a")
    text = box.get("/metrics")[2].decode()
    assert 'llamarig_front_running{model="a"} 0\n' in text
    assert 'llamarig_front_hung_up_total{model="a"} 1\n' in text


def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(box: FrontBox) -> None:
    box.ask("a")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(box.ask, "a", chunks=4, pause=0.5)
        assert eventually(10, lambda: box.noted()[-1] == "begin a")
        with box.stream("b") as response:
            assert response.read1().startswith(b": waiting until b can be loaded")
        assert running.result()[0] == 200
    time.sleep(0.5)
    assert box.states()["b"] == "stopped"


def test_a_body_of_100_mb_arrives_whole(box: FrontBox) -> None:
    box.ask("a")
    body = b'{"messages": "' + b"A" * (100 * 1000 * 1000) + b'", "model": "a"}'
    status, _, content = box.request("POST", "/v1/chat/completions", body)
    assert status == 200
    assert json.loads(content) == {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}


def test_the_models_server_gets_its_own_key_and_nothing_of_the_clients(box: FrontBox) -> None:
    headers = {"Cookie": "c=1", "X_Api_Key": "mine", "Anthropic_Version": "2023-06-01"}
    status, _, content = box.request("POST", "/v1/messages", b'{"model": "a"}', **headers)
    assert status == 200
    seen = json.loads(json.loads(content)["content"][0]["text"])["headers"]
    assert seen["Authorization"] == "Bearer secret-of-a"
    assert seen["Anthropic-Version"] == "2023-06-01"
    assert not {"Cookie", "X-Api-Key"} & seen.keys()


def test_a_model_that_is_killed_is_started_again_by_the_next_request(box: FrontBox) -> None:
    box.ask("a")
    box.systemctl("stop", "llamarig-a.service")
    assert box.ask("a")[0] == 200


def test_a_switch_by_hand_is_noticed(box: FrontBox) -> None:
    """Both models have the same port, and only their keys tell whose server answers."""
    box.ask("a")
    box.systemctl("start", "llamarig-b.service")
    assert eventually(20, lambda: box.states()["b"] == "loaded")
    assert box.states()["a"] == "stopped"
    status, answer = box.ask("a")
    assert (status, answer["model"]) == (200, "a")


def test_a_model_that_dies_within_its_answer_breaks_the_answer_off(box: FrontBox) -> None:
    box.ask("a")
    with box.stream("a", chunks=9, dies_after=1) as response:
        try:
            content = response.read()
        except Exception as error:
            content = getattr(error, "partial", b"")
        assert b"[DONE]" not in content
    assert box.ask("a")[0] == 200


def test_all_models_are_listed_with_what_is_loaded(box: FrontBox) -> None:
    box.ask("a")
    listed = json.loads(box.get("/v1/models")[2])
    assert [(one["id"], one["status"]["value"]) for one in listed["data"]] == [
        ("a", "loaded"),
        ("b", "unloaded"),
        ("broken", "unloaded"),
        ("embed", "unloaded"),
    ]
    assert listed["data"][0]["meta"] == {"n_ctx": 8192}
    assert [one["name"] for one in listed["models"]] == ["a", "b", "broken", "embed"]
    assert json.loads(box.get("/v1/models/b")[2])["id"] == "b"
    assert box.get("/v1/models/x")[0] == 404


def test_the_models_own_pages_are_below_upstream(box: FrontBox) -> None:
    status, _, content = box.get("/upstream/b/page?x=%2F1")
    assert (status, content) == (200, b"a page of b: /page?x=%2F1")
    assert box.get("/upstream/b")[1]["location"] == "/upstream/b/"
    assert box.get("/upstream/x/page")[0] == 404


def test_a_deploy_ends_the_answers_that_have_begun(box: FrontBox) -> None:
    box.ask("a")
    with box.stream("a", chunks=6, pause=0.5) as response:
        assert response.read1() == chunk("a", 0)
        box.terminate()
        rest = response.read()
    assert rest.endswith(chunk("a", 5) + b"data: [DONE]\n\n")
    assert box.ended() == 0


def test_the_state_is_known_after_a_restart(box: FrontBox) -> None:
    box.ask("b")
    box.terminate()
    box.ended()
    box.start()
    assert eventually(10, lambda: box.states()["b"] == "loaded")
    assert box.ask("b")[0] == 200
    assert box.noted().count("up b") == 1


def test_the_status_page_is_one_document_without_anything_from_elsewhere(box: FrontBox) -> None:
    status, headers, content = box.get("/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"http://" not in content
    assert b"https://" not in content
