"""Invalid declarations are refused with file, line, field, value and remedy, before any connection is made."""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare import DeclarationError
from llamarig.declare.build import Build
from llamarig.declare.model import Model

from tests.prepared_pyinfra import run_pyinfra

REPOSITORY = Path(__file__).resolve().parents[2]
UUID = "GPU-11111111-2222-3333-4444-555555555555"
COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"


def serve(**fields: Any) -> Any:
    return d.serve(**{"port": 8080, "context": 4096, **fields})


def model(**fields: Any) -> Any:
    return d.model(**{"name": "m", "repo": "o/r", "quant": "Q4_K_M", "build": "cpu", "serve": serve(), **fields})


def build(**fields: Any) -> Any:
    return d.build(**{"name": "cpu", "backend": "cpu", **fields})


def rig(models: Sequence[Model], builds: Sequence[Build] | None = None, **fields: Any) -> Any:
    return d.rig(models=models, builds=(build(),) if builds is None else builds, **fields)


def cuda(**fields: Any) -> Any:
    return build(**{"backend": "cuda", "architectures": ("89-real",), "cuda_toolkit": "13.0", **fields})


# A mistake, and parts of its message: declaration, field, value as written, remedy.
REJECTIONS: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "unknown field of serve": (
        lambda: serve(contxt=4096),
        ("serve: ", "contxt = 4096", "no such field", "see the fields"),
    ),
    "unknown field of rig": (lambda: rig([model()], modls=[]), ("rig: ", "modls = []", "no such field")),
    "missing field": (lambda: d.serve(port=8080), ("context", "Field required", "add this field")),  # type: ignore[call-arg]
    "missing models": (lambda: d.rig(builds=[build()]), ("rig: models = ()", "at least 1")),
    "value without a name": (
        lambda: d.sampling(0.7),  # type: ignore[call-arg]
        ("sampling: ", "positional argument", "write sampling(field=value"),
    ),
    "value of another type": (lambda: serve(port="http"), ("serve: ", "port = 'http'", "valid integer")),
    "port out of range": (lambda: serve(port=70000), ("port = 70000", "65535")),
    "something unknown given up": (
        lambda: d.auto(give_up=("quant",)),  # type: ignore[arg-type]
        ("auto: ", "give_up.0 = 'quant'", "ubatch"),
    ),
    "the same given up twice": (
        lambda: d.auto(give_up=("context", "context")),
        ("auto: give_up = ('context', 'context')", "name each once"),
    ),
    "auto with layers split": (
        lambda: serve(placement=d.auto(), split_mode="tensor"),
        ("auto() places whole layers", 'split_mode = "tensor"', "choose one"),
    ),
    "a margin below nothing": (lambda: d.auto(margin_mib=-1), ("margin_mib = -1", "greater than or equal to 0")),
    "partial layers for other GPUs": (
        lambda: d.layers(gpu=(1,), split=(4,), partial=((), ("up",))),
        ("layers: ", "partial is for 2 GPUs", "split for 1"),
    ),
    "a partial layer too many": (
        lambda: d.layers(gpu=(3,), split=(4,), partial=(("up",),)),
        ("gpu[0] = 3 whole layers and a partial one", "only 3", "lower gpu[0]"),
    ),
    "no layer on any GPU": (lambda: d.layers(gpu=(0,), split=(0,)), ("gives no GPU a layer", "cpu_only()")),
    "a simulated GPU's name that cannot be said": (
        lambda: d.simulated_gpu(name="a:b", total_mib=2, free_mib=1),
        ("simulated_gpu 'a:b'", "name = 'a:b'"),
    ),
    "short commit": (
        lambda: d.git_source(commit=COMMIT[:7]),
        ("git_source: ", "commit = '0c1e570'", "not a full commit", "git rev-parse"),
    ),
    "tag as commit": (lambda: d.git_source(commit="b8149"), ("commit = 'b8149'", "write all 40")),
    "upper-case commit": (lambda: d.git_source(commit=COMMIT.upper()), ("not a full commit", "lower-case")),
    "short commit of an sdist": (
        lambda: d.sdist_source(url="https://host/x.tar.gz", sha256="0" * 64, commit="0c1e570"),
        ("sdist_source: ", "commit = '0c1e570'", "write all 40"),
    ),
    "source that is no URL": (
        lambda: d.git_source(url="git@host:llama.cpp"),
        ("url = 'git@host:llama.cpp'", "use https://, ssh:// or file://"),
    ),
    "login in a git URL": (
        lambda: d.git_source(url="https://me:sesame@host/llama.cpp"),
        ("git_source: ", "url = 'https://...@host/llama.cpp'", "a login in a URL", "credential.helper", "keys/git"),
    ),
    "token as the user of a git URL": (
        lambda: d.git_source(url="https://sesame@host/llama.cpp"),
        ("a login in a URL", "declare the URL without it"),
    ),
    "password in an ssh URL": (lambda: d.git_source(url="ssh://git:sesame@host/x"), ("a login in a URL",)),
    "login in an archive's URL": (
        lambda: d.sdist_source(url="https://me:sesame@host/x.tar.gz", sha256="0" * 64, commit=COMMIT),
        ("sdist_source: ", "a login in a URL", "file:///path"),
    ),
    "signed URL of an archive": (
        lambda: d.sdist_source(url="https://host/x?X-Amz-Signature=sesame", sha256="0" * 64, commit=COMMIT),
        ("sdist_source: ", "url = 'https://host/x?...'", "a token in a URL", "file:///path"),
    ),
    "archive without a URL": (
        lambda: d.sdist_source(url="x.tar.gz", sha256="0" * 64, commit=COMMIT),
        ("url = 'x.tar.gz'", "not the URL of an archive", "use https://"),
    ),
    "login in a mirror's URL": (
        lambda: d.host_policy(python_mirror="https://me:sesame@host/mirror"),
        ("host_policy: ", "a login in a URL", "file:///directory"),
    ),
    "token in a mirror's URL": (
        lambda: d.host_policy(python_mirror="https://host/mirror?token=sesame"),
        ("host_policy: ", "a token in a URL"),
    ),
    "Hub token in the environment": (
        lambda: serve(environment={"HF_TOKEN": "sesame"}),
        ("environment = {'HF_TOKEN': (not shown)}", "HF_TOKEN looks like a secret", "hub(token_env=...)"),
    ),
    "key in the environment": (
        lambda: serve(environment={"A": "1", "OPENAI_API_KEY": "sesame"}),
        ("{'A': '1', 'OPENAI_API_KEY': (not shown)}", "OPENAI_API_KEY looks like a secret", "api_key_file"),
    ),
    "token by its value in the environment": (
        lambda: serve(environment={"HELLO": "hf_sesame0123456789"}),
        ("{'HELLO': (not shown)}", "HELLO looks like a secret"),
    ),
    "proxy with a login in the environment": (
        lambda: serve(environment={"https_proxy": "HTTPS://me:sesame@proxy:3128"}),
        ("{'https_proxy': (not shown)}", "https_proxy looks like a secret"),
    ),
    "token among the arguments": (
        lambda: serve(extra=("--something", "ghp_sesame0123456789")),
        ("extra = ('--something', 'ghp_...')", "one of them looks like a secret", "api_key_file"),
    ),
    "cuda toolkit that no longer knows an architecture": (
        lambda: d.build(name="cuda", architectures=("70-real",), cuda_toolkit="13.0"),
        ("build 'cuda': ", "CUDA 13.0 no longer compiles for 70-real", "install a CUDA 12 toolkit", "declare its path"),
    ),
    "architecture by another name": (
        lambda: cuda(architectures=("sm_89",)),
        ("architectures = ('sm_89',)", "write 89-real"),
    ),
    "cuda toolkit that PyPI does not have": (
        lambda: cuda(cuda_toolkit="12.9"),
        ("cuda_toolkit = '12.9'", "only for 13.0, 13.1,", "declared by its path", "/usr/local/cuda-12.9"),
    ),
    "driver by its whole version": (
        lambda: d.nvidia_driver(series="580.95.05"),
        ("nvidia_driver: series = '580.95.05'", "pattern"),
    ),
    "cuda toolkit by another name": (
        lambda: cuda(cuda_toolkit="cuda13"),
        ("cuda_toolkit = 'cuda13'", "write a version as 13.0"),
    ),
    "CMake definition of ours": (
        lambda: cuda(cmake={"CMAKE_CUDA_ARCHITECTURES": "native"}),
        ("build 'cpu': cmake", "CMAKE_CUDA_ARCHITECTURES is set by llamarig", "remove it"),
    ),
    "cache types without kernels": (
        lambda: cuda(kv_cache_pairs=("q4_1-iq4_nl",)),
        ("kv_cache_pairs = ('q4_1-iq4_nl',)", "is not a K-V pair with kernels", "write q4_1-q4_1"),
    ),
    "name no unit can have": (lambda: model(name="Qwen 3"), ("model 'Qwen 3': name = 'Qwen 3'", "pattern")),
    "quant and files": (
        lambda: model(files=("a.gguf",)),
        ("model 'm': ", "either quant or files, not both and not neither"),
    ),
    "neither quant nor files": (lambda: model(quant=None), ("model 'm': ", "either quant or files")),
    "file outside the model store": (
        lambda: model(quant=None, files=("../../etc/x.gguf",)),
        ("files = ('../../etc/x.gguf',)", "not the path of a file in a Hub repository"),
    ),
    "repository without its owner": (lambda: model(repo="Qwen3"), ("repo = 'Qwen3'", "pattern")),
    "owned flag as extra": (
        lambda: serve(extra=("--ctx-size", "4096")),
        ("extra = ('--ctx-size', '4096')", "--ctx-size is rendered by llamarig: declare serve.context in its place"),
    ),
    "flag that ends the server": (lambda: serve(extra=("--list-devices",)), ("print this and exit", "leave it out")),
    "flag that fetches an unpinned model": (
        lambda: serve(extra=("--gpt-oss-20b-default",)),
        ("a model that is not pinned",),
    ),
    "a factor of yarn without a scale": (
        lambda: serve(yarn_beta_fast=32.0),
        ("yarn_beta_fast does nothing without yarn_scale",),
    ),
    "owned flag with its value": (
        lambda: serve(extra=("-ngl=99",)),
        ("-ngl is rendered by llamarig", "serve.placement"),
    ),
    "mirror that is no URL": (
        lambda: d.host_policy(python_mirror="/srv/pythons/"),
        ("python_mirror = '/srv/pythons/'", "write https://..., or file:///directory"),
    ),
    "open host without a key": (
        lambda: serve(host="0.0.0.0"),
        ("host 0.0.0.0 is open to the network", "set api_key_file", "or keep 127.0.0.1"),
    ),
    "open IPv6 host without a key": (lambda: serve(host="::"), ("host :: is open", "set api_key_file")),
    "host that is a name": (lambda: serve(host="localhost"), ("host = 'localhost'", "not an IP address", "127.0.0.1")),
    "key file of nowhere": (
        lambda: serve(api_key_file="keys/api"),
        ("api_key_file = 'keys/api'", "write the absolute path"),
    ),
    "quantized V without flash attention": (
        lambda: serve(cache_type_v="q8_0", flash_attention="off"),
        ("quantized cache_type_v", "set flash_attention to on"),
    ),
    "KV type that does not exist": (lambda: serve(cache_type_k="q6_0"), ("cache_type_k = 'q6_0'", "'q8_0'")),
    "split mode that no longer loads": (
        lambda: serve(split_mode="row"),
        ("split_mode = 'row'", "no longer has it", "choose 'layer'"),
    ),
    "GPU by number": (lambda: serve(gpus=("0", "1")), ("'0' is no GPU's UUID", "nvidia-smi -L")),
    "a GPU twice": (lambda: serve(gpus=(UUID, UUID)), ("the same GPU twice",)),
    "NVIDIA's UUIDs for another backend": (
        lambda: rig([model(serve=serve(gpus=(UUID,)))]),
        ("model 'm': gpus are NVIDIA's UUIDs", "is for cpu", "leave gpus out"),
    ),
    "GPUs behind the declaration's back": (
        lambda: serve(environment={"CUDA_VISIBLE_DEVICES": "1,0"}),
        ("CUDA_VISIBLE_DEVICES is rendered by llamarig", "declare serve.gpus"),
    ),
    "acceptance of no lint": (lambda: serve(accept={"kv-q4": "measured"}), ("'kv-q4' is no lint and no risky flag",)),
    "clients of a server on loopback": (
        lambda: serve(clients=("192.168.1.0/24",)),
        ("clients has no effect, since only the box itself can connect to host 127.0.0.1",),
    ),
    "clients that are no network": (
        lambda: serve(host="0.0.0.0", api_key_file="/k", clients=("192.168.1.7/24",)),
        ("clients = ('192.168.1.7/24',)", "192.168.1.7/24 has host bits set: write a network as 192.168.1.0/24"),
    ),
    "readable path that is relative": (
        lambda: serve(readable_paths=("lora",)),
        ("readable_paths = ('lora',)", "write the absolute path of a file or directory"),
    ),
    "everything readable": (lambda: serve(readable_paths=("/",)), ("'/': write the absolute path",)),
    "readable path that climbs": (lambda: serve(readable_paths=("/srv/../etc",)), ("write the absolute path",)),
    "origin with a path": (
        lambda: serve(cors_origins=("https://chat.lan/",)),
        ("cors_origins = ('https://chat.lan/',)", "is no origin: write https://HOST"),
    ),
    "two origins": (
        lambda: serve(cors_origins=("https://a.lan", "https://b.lan")),
        ("llama-server sends all of them as one header", "declare one"),
    ),
    "every origin without a key": (
        lambda: serve(cors_origins=("*",)),
        ("lets every web page that you open use this server", "set api_key_file"),
    ),
    "credentials of browsers as extra": (
        lambda: serve(extra=("--cors-credentials",)),
        ("--cors-credentials is rendered by llamarig: declare serve.cors_origins (llama-server reads no cookies)",),
    ),
    "risky flag": (
        lambda: serve(extra=("--tools", "all")),
        (
            "serve: extra: --tools: clients of the API can run shell commands",
            'accept={"--tools": "your reason"} in serve',
        ),
    ),
    "risky flag by another name": (lambda: serve(extra=("-ag",)), ("extra: --agent: it switches on all of --tools",)),
    "risky flag with underscores": (
        lambda: serve(extra=("--slot_save_path", "/srv")),
        ("extra: --slot-save-path: clients of the API can write files",),
    ),
    "risky flag without a reason": (
        lambda: serve(extra=("--props",), accept={"--props": " "}),
        ("--props is accepted without a reason",),
    ),
    "risky flag by its environment variable": (
        lambda: serve(environment={"LLAMA_ARG_TOOLS": "all"}, accept={"--tools": "my own agents"}),
        ("LLAMA_ARG_TOOLS is the flag --tools: clients of the API can run", "pass the flag as serve.extra"),
    ),
    "owned flag with underscores": (
        lambda: serve(extra=("--ctx_size", "4096")),
        ("--ctx-size is rendered by llamarig: declare serve.context",),
    ),
    "file of the model with underscores": (
        lambda: model(serve=serve(extra=("--hf_token", "hf_s3cret"))),
        ("--hf-token is rendered by llamarig",),
    ),
    "acceptance without a reason": (
        lambda: serve(accept={"kv-4-bit": " "}),
        ("kv-4-bit is accepted without a reason",),
    ),
    "draft model that is not named": (
        lambda: model(serve=serve(speculation=d.speculation(types=("draft-simple",)))),
        ("draft-simple guesses with a draft model", "declare its file as draft"),
    ),
    "draft model that nothing asks": (
        lambda: model(draft="d.gguf"),
        ("draft would be loaded and not used", "serve.speculation"),
    ),
    "number that no type of speculation reads": (
        lambda: d.speculation(types=("ngram-mod",), draft_max=16),
        ("draft_max is read by none of the types ngram-mod", "remove it"),
    ),
    "speculation by magic": (lambda: d.speculation(types=("magic",)), ("types.0 = 'magic'", "'ngram-mod'")),  # type: ignore[arg-type]
    "sleep after no time": (lambda: serve(sleep_idle_s=0), ("sleep_idle_s = 0", "greater than 0")),
    "control character in the environment": (
        lambda: serve(environment={"A": "\x1b[0m"}),
        ("A: systemd refuses the control character U+001B",),
    ),
    "line break in the alias": (lambda: serve(alias="a\nb"), ("a systemd unit cannot contain a line break",)),
    "key file with a space": (lambda: serve(api_key_file="/etc/my keys"), ("letters, digits and ./_@+-",)),
    "ubatch larger than batch": (
        lambda: serve(batch=512, ubatch=1024),
        ("ubatch 1024 is larger than batch 512", "lower it or raise batch"),
    ),
    "bad CPU list": (lambda: serve(cpu_affinity="0..11"), ("cpu_affinity = '0..11'", "write 0-11 or 0,2,4")),
    "CPU list backwards": (lambda: serve(cpu_affinity="11-0"), ("cpu_affinity = '11-0'", "write 0-11")),
    "LLAMA_ARG_ environment": (
        lambda: serve(environment={"LLAMA_ARG_CTX_SIZE": "4096"}),
        ("environment = ", "LLAMA_ARG_CTX_SIZE", "in place of a declared flag", "declare serve.context"),
    ),
    "negated LLAMA_ARG_ environment": (
        lambda: serve(environment={"LLAMA_ARG_NO_KV_OFFLOAD": "1"}),
        ("LLAMA_ARG_NO_KV_OFFLOAD", "declare serve.kv_offload"),
    ),
    "LLAMA_ARG_ environment without a field": (
        lambda: serve(environment={"LLAMA_ARG_TAGS": "x"}),
        ("LLAMA_ARG_TAGS", "the flag in serve.extra"),
    ),
    "file of the model as extra": (
        lambda: model(serve=serve(extra=("--model", "/x.gguf"))),
        ("model 'm': serve.extra: --model is rendered by llamarig", "declare files in its place"),
    ),
    "Hub token as extra": (
        lambda: model(serve=serve(extra=("--hf-token", "hf_s3cret"))),
        ("serve.extra: --hf-token", "declare hub.token_env"),
    ),
    "environment name with a dash": (lambda: serve(environment={"A-B": "1"}), ("'A-B' is no environment variable",)),
    "line break in the environment": (
        lambda: serve(environment={"A": "1\n2"}),
        ("A: a systemd unit cannot contain a line",),
    ),
    "line break in an argument": (lambda: serve(extra=("a\nb",)), ("a systemd unit cannot contain a line break",)),
    "yarn without a scale": (
        lambda: serve(yarn_original_context=262144),
        ("yarn_original_context does nothing without yarn_scale", "set both or neither"),
    ),
    "yarn that scales nothing": (lambda: serve(yarn_scale=1), ("yarn_scale = 1", "greater than 1")),
    "split for another number of GPUs": (
        lambda: d.layers(gpu=(13, 6), split=(49,)),
        ("layers: ", "gpu names 2 GPUs, split 1", "one number per GPU"),
    ),
    "more whole layers than the split gives": (
        lambda: d.layers(gpu=(13, 17), split=(32, 17)),
        ("gpu[1] = 17 whole layers", "split gives GPU 1 only 16", "lower gpu[1] or raise split[1]"),
    ),
    "override that is no rule": (
        lambda: d.override(rules=("exps",)),
        ("rules = ('exps',)", "write REGEX=DEVICE, for example exps=CPU"),
    ),
    "override with a comma": (
        lambda: d.override(rules=("a=CPU,b=CPU",)),
        ("llama.cpp splits at every comma", "give each rule on its own"),
    ),
    "unknown build name": (
        lambda: rig([model(build="cuda")]),
        ("rig: ", "model 'm': build = 'cuda' is not declared", "name one of cpu, or add it to builds"),
    ),
    "unknown default": (
        lambda: rig([model()], default="n"),
        ("rig: ", "default = 'n' is not a model of this box", "name one of m"),
    ),
    "two models of one name": (lambda: rig([model(), model()]), ("two models are called 'm'", "rename one")),
    "two builds of one name": (lambda: rig([model()], [build(), build()]), ("two builds are called 'cpu'", "rename")),
    "two models on one port that may run together": (
        lambda: rig([model(), model(name="n", serve=serve(coexists=True))]),
        ("models 'm' and 'n' would both listen on port 8080", "give one another serve.port"),
    ),
    "two models on one port of overlapping addresses": (
        lambda: rig([model(), model(name="n", serve=serve(coexists=True, host="0.0.0.0", api_key_file="/k"))]),
        ("both listen on port 8080", "or let neither coexist"),
    ),
    "swappiness out of range": (lambda: d.host_policy(swappiness=300), ("host_policy: ", "swappiness = 300", "200")),
    "finding accepted without a reason": (
        lambda: d.host_policy(accepted={"gpu.pcie": "ok"}),
        ("host_policy: accepted", "gpu.pcie", "write the reason"),
    ),
    "finding accepted of no check": (lambda: d.host_policy(accepted={"gpus": "it is fine"}), ("not a check", "list=1")),
    "GPU by a short id": (lambda: d.gpu_card(name="RTX 4090", uuid="GPU-1"), ("uuid = 'GPU-1'", "nvidia-smi -L")),
    "memory speed in GT/s": (lambda: d.host_policy(memory_mts=6), ("memory_mts = 6", "800")),
}


@pytest.mark.parametrize(("declare", "words"), REJECTIONS.values(), ids=REJECTIONS.keys())
def test_refused_with_place_field_value_and_remedy(declare: Callable[[], object], words: tuple[str, ...]) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    message = str(refused.value)
    assert re.match(rf"{re.escape(str(Path(__file__).relative_to(REPOSITORY)))}:\d+: ", message), message
    for word in words:
        assert word in message, message
    assert "Value error" not in message
    assert "sesame" not in message, "a secret"


@pytest.mark.parametrize(
    "environment",
    [
        {"TOKENIZERS_PARALLELISM": "false", "GGML_CUDA_FORCE_MMQ": "1", "MONKEY": "1"},
        {"SSL_CERT_FILE": "/etc/ssl/cert.pem", "TLS_KEY": "/etc/llamarig/keys/tls.pem", "HF_TOKEN": ""},
        {"NO_PROXY": "localhost", "https_proxy": "http://proxy:3128", "VK_ICD_FILENAMES": "/usr/share/vulkan/a.json"},
    ],
)
def test_an_environment_without_secrets_is_accepted(environment: dict[str, str]) -> None:
    assert serve(environment=environment).environment == environment


@pytest.mark.parametrize(
    "url",
    ["https://github.com/ggml-org/llama.cpp", "ssh://git@host/llama.cpp", "https://host/x?ref=a", "file:///srv/x"],
)
def test_a_url_without_a_login_is_accepted(url: str) -> None:
    assert d.git_source(url=url).url == url


def test_the_message_begins_with_the_line_of_the_declaration() -> None:
    with pytest.raises(DeclarationError) as refused:
        d.host_policy(swappiness=300)
    frame = inspect.currentframe()
    assert frame is not None
    assert int(str(refused.value).split(":")[1]) == frame.f_lineno - 3


def test_every_mistake_is_listed_at_once() -> None:
    with pytest.raises(DeclarationError) as refused:
        serve(port=0, cpu_affinity="P-cores", host="localhost")
    assert len(str(refused.value).splitlines()) == 3


def test_a_risky_flag_is_accepted_by_its_name() -> None:
    accepted = serve(extra=("-ag", "--slot_save_path", "/srv"), accept={"--agent": "mine", "--slot-save-path": "mine"})
    assert accepted.extra == ("-ag", "--slot_save_path", "/srv")
    with pytest.raises(DeclarationError, match="--props"):
        serve(extra=("-ag", "--props"), accept={"--agent": "mine"})


def test_models_that_exclude_each_other_may_share_a_port() -> None:
    rig([model(), model(name="n")])


@pytest.mark.parametrize(
    "declare",
    [
        lambda: serve(extra=("--api-key", "s3cret")),
        lambda: serve(extra=("--api-key=s3cret",)),
        lambda: serve(api_key="s3cret"),
        lambda: d.hub(token="hf_s3cret"),  # type: ignore[call-arg]
        lambda: serve(alias=["hf_s3cret"]),
        lambda: model(serve=serve(extra=("--hf-token", "hf_s3cret"))),
    ],
)
def test_a_secret_is_not_repeated(declare: Callable[[], object]) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("host_data", "words"),
    [
        ("d.serve(port=8080, context=4096, ubatch=4096)", ("serve: ubatch 4096 is larger than batch 2048", "lower it")),
        ('d.git_source(commit="b8149")', ("git_source: commit = 'b8149'", "not a full commit")),
        ("d.rig(build=())", ("rig: ", "build = ()", "no such field")),
    ],
)
def test_pyinfra_stops_before_any_connection(tmp_path: Path, host_data: str, words: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as box:
        box.settimeout(0)
        inventory = tmp_path / "mistaken.py"
        inventory.write_text(
            "from llamarig import declare as d\n\n"
            f'boxes = [("127.0.0.1", {{"ssh_port": {box.getsockname()[1]}, "rig": {host_data}}})]\n'
        )
        run = run_pyinfra(inventory, "exec", "--", "true")
        with pytest.raises(BlockingIOError):
            box.accept()
    output = run.stdout + run.stderr
    assert run.returncode == 1
    assert "Traceback" not in output
    assert "Connecting" not in output
    message = [line for line in output.splitlines() if line.startswith(f"{inventory}:3: ")]
    for word in words:
        assert word in "\n".join(message), output
