"""Units with drop-ins, compose files, llama-swap configurations, preset files and wrapped commands."""

from __future__ import annotations

import pytest
from llamarig.adopt.adopted_model import Adopted, Known, adopted_model
from llamarig.adopt.container import mebibytes, published, volume
from llamarig.adopt.cpu_list import cpus_of_list, cpus_of_mask
from llamarig.adopt.input_format import launches_of_text, launches_of_words
from llamarig.adopt.launch import Launch, Port
from llamarig.adopt.systemd_unit import unit_words
from llamarig.declare.placement import CpuOnly


def one(text: str, name: str = "", files: dict[str, str] | None = None, drop_ins: tuple[str, ...] = ()) -> Launch:
    (launch,) = launches_of_text(text, name, (files or {}).get, drop_ins).launches
    return launch


def adopted(text: str, name: str = "", known: Known | None = None) -> Adopted:
    return adopted_model(one(text, name), known or Known())


UNIT = """[Service]
Environment=A=1 "B=two words"
EnvironmentFile=-/etc/default/llama
ExecStart=/usr/bin/llama-server -m /m/x-Q8_0.gguf -c ${CTX} $MORE
"""


def test_a_unit_with_its_drop_ins_and_its_environment_file() -> None:
    files = {"/etc/default/llama": "CTX=8192\nMORE=\"--port 9 --metrics\"\n# no\nexport C='3 4'\n"}
    override = "[Service]\nEnvironment=CUDA_VISIBLE_DEVICES=0\nCPUAffinity=0-3 8\n"
    launch = one(UNIT, "llama.service", files, (override,))
    assert launch.words == ("-m", "/m/x-Q8_0.gguf", "-c", "8192", "--port", "9", "--metrics")
    assert launch.environment["B"] == "two words"
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert launch.settings["cpu_affinity"] == "0-3,8"


def test_a_drop_in_replaces_the_command() -> None:
    override = "[Service]\nExecStart=\nExecStart=/usr/bin/llama-server -m /m/y-Q8_0.gguf\n"
    assert one(UNIT, "llama.service", drop_ins=(override,)).words == ("-m", "/m/y-Q8_0.gguf")
    # As `systemctl cat` prints them.
    assert one(f"# /etc/systemd/system/l.service\n{UNIT}\n# /etc/x.conf\n{override}").words == ("-m", "/m/y-Q8_0.gguf")


def test_a_unit_that_starts_a_script() -> None:
    files = {"/opt/start.sh": "exec llama-server -m /m/x-Q8_0.gguf -c $CTX"}
    launch = one("[Service]\nEnvironment=CTX=1024\nExecStart=/bin/bash /opt/start.sh\n", "l.service", files)
    assert launch.words == ("-m", "/m/x-Q8_0.gguf", "-c", "1024")


def test_quoting_of_units() -> None:
    assert unit_words(r"""a "b c" 'd e' f\x20 "g\\.h" "i\"j" k"l""") == [
        "a", "b c", "d e", "f\\x20", "g\\.h", 'i"j', 'k"l'
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("taskset -c 0-11 llama-server -m x.gguf", {"cpu_affinity": "0-11"}),
        ("taskset 0x0f llama-server -m x.gguf", {"cpu_affinity": "0-3"}),
        ("taskset --cpu-list 0,2,4 nice -n 5 llama-server -m x.gguf", {"cpu_affinity": "0,2,4"}),
        ("sudo -u llama -E numactl -C 4-7 ./llama-server -m x.gguf", {"cpu_affinity": "4-7"}),
        ("systemd-run --user -p MemoryMax=8G --unit l llama-server -m x.gguf", {}),
        ("bash -lc 'cd /x && exec taskset -c 1 llama-server -m x.gguf'", {"cpu_affinity": "1"}),
        ("tmux new-session -d -s llama 'llama-server -m x.gguf'", {}),
        ("screen -dmS llama llama-server -m x.gguf", {}),
        ("nohup nice -10 ionice -c 2 chrt -f 50 timeout -k 5 1h stdbuf -oL llama-server -m x.gguf &", {}),
        ("env -i A=1 /opt/llama-server-cuda -m x.gguf", {}),
        ("podman run --rm --cpuset-cpus 0-3 -m 8g ghcr.io/ggml-org/llama.cpp:server -m x.gguf",
         {"cpu_affinity": "0-3", "memory_max_mib": 8192}),
        ("llama server -m x.gguf", {}),
        ("C:\\llama\\llama-server.exe -m x.gguf", {}),
    ],
)  # fmt: skip
def test_a_command_that_is_started_through_others(command: str, settings: dict[str, object]) -> None:
    launch = one(command, ".sh")
    assert launch.words == ("-m", "x.gguf")
    assert launch.settings == settings


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("python3 koboldcpp.py --model x.gguf", "is koboldcpp, not llama-server"),
        ("./koboldcpp-linux-x64 x.gguf", "is koboldcpp, not llama-server"),
        ("ollama serve", "is Ollama, not llama-server"),
        ("vllm serve Qwen/Qwen3-8B", "is vLLM, not llama-server"),
        ("./llama-cli -m x.gguf -p hi", "is llama-cli, which serves nothing, not llama-server"),
        ("./main -m x.gguf", "is llama.cpp's former `main`, which serves nothing, not llama-server"),
        ("llama-swap --config c.yaml", "is llama-swap: adopt its configuration file, which names the models"),
    ],
)
def test_another_program_is_named(command: str, text: str) -> None:
    found = launches_of_text(command, ".sh", lambda name: None)
    assert found.launches == ()
    assert [note.text for note in found.notes if text in note.text]


def test_words_without_a_program_are_of_llama_server() -> None:
    (launch,) = launches_of_words(["-m", "x.gguf", "--alias", "a b"]).launches
    assert launch.words == ("-m", "x.gguf", "--alias", "a b")


def test_a_unit_in_a_here_document() -> None:
    text = f"cat >/etc/systemd/system/llama.service <<'EOF'\n{UNIT}EOF\nsystemctl enable llama\n"
    assert one(text, "install.sh").words[:2] == ("-m", "/m/x-Q8_0.gguf")


def test_where_a_container_is_published() -> None:
    assert published("8000:8080") == [Port(8080, "0.0.0.0", 8000)]
    assert published("127.0.0.1:8000:8080/tcp") == [Port(8080, "127.0.0.1", 8000)]
    assert published("[::1]:8000:8080") == [Port(8080, "::1", 8000)]
    assert published("8080") == published("8000-8010:8000-8010") == []


def test_mounts_and_sizes() -> None:
    assert volume("/srv/m:/models:ro") == {"/models": "/srv/m"}
    assert volume("./m:/models") == {"/models": "./m"}
    assert volume("named:/models") == volume("/models") == {}
    assert [mebibytes(text) for text in ("32g", "512M", "1073741824", "1.5G", "8GiB", "infinity", "50%")] == [
        32768, 512, 1024, 1536, 8192, None, None
    ]  # fmt: skip
    assert [cpus_of_list("0-11"), cpus_of_list("0-6:2"), cpus_of_list("0 1 2"), cpus_of_list("x")] == [
        "0-11", "0,2,4,6", "0-2", None
    ]  # fmt: skip
    assert [cpus_of_mask("ff"), cpus_of_mask("0x5"), cpus_of_mask("zz")] == ["0-7", "0,2", None]


def test_a_container_without_a_published_port_is_on_loopback() -> None:
    serve = adopted("docker run -v /m:/models ghcr.io/ggml-org/llama.cpp:server -m /models/x-Q8_0.gguf", ".sh").model
    assert serve is not None
    assert (serve.serve.host, serve.serve.api_key_file) == ("127.0.0.1", None)


def test_numbers_of_cards_become_uuids_where_the_cards_are_known() -> None:
    cards = tuple(f"GPU-{number * 8}-1111-1111-1111-111111111111" for number in "12")
    command = "CUDA_VISIBLE_DEVICES=1 CUDA_DEVICE_ORDER=PCI_BUS_ID llama-server -m x-Q8_0.gguf"
    model = adopted(command, ".sh", Known(cards=cards)).model
    assert model is not None
    assert model.serve.gpus == (cards[1],)
    assert model.serve.environment == {}
    # Without an order, the number of one of two cards is not known.
    unknown = adopted("CUDA_VISIBLE_DEVICES=1 llama-server -m x-Q8_0.gguf", ".sh", Known(cards=cards)).model
    assert unknown is not None
    assert unknown.serve.gpus == ()


def test_no_visible_card_is_no_gpu() -> None:
    model = adopted("CUDA_VISIBLE_DEVICES= llama-server -m x-Q8_0.gguf", ".sh").model
    assert model is not None
    assert model.serve.placement == CpuOnly()


def test_a_value_that_no_declaration_holds_is_left_out_and_named() -> None:
    found = adopted(
        "llama-server -m x-Q8_0.gguf --top-p 3 --alias 'ok' -ctk q8_KV --port 99999 --dry-penalty-last-n -1", ".sh"
    )
    named = ("--top-p 3", "-ctk q8_KV", "--port 99999", "--dry-penalty-last-n -1")
    assert [str(note) for note in found.notes if note.about in named] == [
        "-ctk q8_KV: a declaration has f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1: declare "
        "serve.cache_type_k",
        "--port 99999: 8080 in its place: Input should be less than or equal to 65535",
        "--top-p 3: left out: Input should be less than or equal to 1",
        "--dry-penalty-last-n -1: left out: Input should be greater than or equal to 0",
    ]


SECRETS = {
    "key": "llama-server -m x-Q8_0.gguf --api-key SECRET-1234567890",
    "key with an equals sign": "llama-server -m x-Q8_0.gguf --api-key=SECRET-1234567890",
    "key in a variable": "LLAMA_API_KEY=SECRET-1234567890 llama-server -m x-Q8_0.gguf",
    "token": "llama-server -hf a/b -hft SECRET-1234567890",
    "token in a variable": "HF_TOKEN=SECRET-1234567890 llama-server -hf a/b",
    "another variable": "MY_TOKEN=SECRET-1234567890 llama-server -m x-Q8_0.gguf",
    "extra": "llama-server -m x-Q8_0.gguf --override-kv a=str:hf_SECRETSECRETSECRETSECRETSECRET1234567890",
    "an unknown flag": "llama-server -m x-Q8_0.gguf --unknown sk-SECRETSECRETSECRETSECRET1234567890",
    "python": "python -m llama_cpp.server --model x-Q8_0.gguf --api_key SECRET-1234567890",
    "url": "llama-server -mu https://me:SECRET-1234567890@host/x-Q8_0.gguf",
    "stray": "llama-server -m x-Q8_0.gguf hf_SECRETSECRETSECRETSECRETSECRET1234567890",
}


@pytest.mark.parametrize("command", SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_is_never_shown(command: str) -> None:
    found = adopted(command, ".sh")
    text = "\n".join([str(found.call), *map(str, found.notes)])
    assert "SECRET" not in text.replace("hub(token_env", "")
