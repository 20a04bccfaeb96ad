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
        ("serve: ", "contxt = 4096", "no such field (did you mean context?)"),
    ),
    "unknown field of rig": (
        lambda: rig([model()], modls=[]),
        ("rig: ", "modls = []", "no such field (did you mean models?)"),
    ),
    "missing field": (lambda: d.serve(port=8080), ("serve: context: is missing: add context=32768",)),  # type: ignore[call-arg]  # the mistake
    "missing models": (lambda: d.rig(builds=[build()]), ("rig: models is missing: write models=[d.model(...)]",)),
    "value without a name": (
        lambda: d.sampling(0.7),  # type: ignore[call-arg]  # the mistake
        ("sampling: ", "positional argument", "write sampling(field=value"),
    ),
    "value of another type": (
        lambda: serve(port="http"),
        ("serve: ", "port = 'http'", "write a whole number from 1 to 65535, for example port=8080"),
    ),
    "port out of range": (lambda: serve(port=70000), ("port = 70000", "65535")),
    "something unknown given up": (
        lambda: d.auto(give_up=("quant",)),  # type: ignore[arg-type]  # the mistake
        ("auto: ", "give_up[0] = 'quant'", 'write one of "ubatch", "context"'),
    ),
    "the same given up twice": (
        lambda: d.auto(give_up=("context", "context")),
        ("auto: give_up = ('context', 'context')", "name each once"),
    ),
    "auto with layers split": (
        lambda: serve(placement=d.auto(), split_mode="tensor"),
        ("auto() places whole layers", 'split_mode = "tensor"', "choose one"),
    ),
    "a margin below nothing": (lambda: d.auto(margin_mib=-1), ("margin_mib = -1", "write a number, at least 0")),
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
        ("simulated_gpu 'a:b'", "name = 'a:b'", 'a name without a colon or comma, for example name="RTX 5090"'),
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
    "archive of no name": (
        lambda: d.sdist_source(sha256="0" * 64, commit=COMMIT),
        ("sdist_source: which archive? declare package and version, or its url",),
    ),
    "archive of two names": (
        lambda: d.sdist_source(package="a", version="1", url="https://host/x.tar.gz", sha256="0" * 64, commit=COMMIT),
        ("which archive? declare package and version, or its url, and not both",),
    ),
    "package without a version": (
        lambda: d.sdist_source(package="a", sha256="0" * 64, commit=COMMIT),
        ("which archive? declare package and version",),
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
    "architecture that has another number": (
        lambda: d.build(name="cuda", architectures=("101a-real",), cuda_toolkit="13.5"),
        ("build 'cuda': ", "CUDA 13.5 calls 101a-real 110", "declare 110a-real"),
    ),
    "architecture that no toolkit has": (
        lambda: d.build(name="cuda", architectures=("95-real",), cuda_toolkit="13.0"),
        ("build 'cuda': ", "CUDA 13.0 knows no architecture 95-real", "it compiles for 75, 80, 86,"),
    ),
    "architecture of a newer toolkit": (
        lambda: d.build(name="cuda", architectures=("107a-real",), cuda_toolkit="13.2"),
        ("CUDA 13.2 cannot compile for 107a-real", "declare 13.4 or newer"),
    ),
    "architecture with a suffix that it does not have": (
        lambda: cuda(architectures=("89a-real",)),
        ("architectures = ('89a-real',)", "the suffix a from 90 on"),
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
        ("nvidia_driver: series = '580.95.05'", "write three digits", 'for example series="580-server"'),
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
    "name no unit can have": (
        lambda: model(name="Qwen 3"),
        ("model 'Qwen 3': name = 'Qwen 3'", "write lower-case letters", 'name="qwen3-coder"'),
    ),
    "quant and files": (
        lambda: model(files=("a.gguf",)),
        ("model 'm': ", "either quant or files, not both and not neither"),
    ),
    "neither quant nor files": (lambda: model(quant=None), ("model 'm': ", "either quant or files")),
    "file outside the model store": (
        lambda: model(quant=None, files=("../../etc/x.gguf",)),
        ("files = ('../../etc/x.gguf',)", "not the path of a file in a Hub repository"),
    ),
    "repository without its owner": (
        lambda: model(repo="Qwen3"),
        ("repo = 'Qwen3'", "write OWNER/NAME as on the Hub, for example repo="),
    ),
    "owned flag as extra": (
        lambda: serve(extra=("--ctx-size", "4096")),
        ("extra = ('--ctx-size', '4096')", "--ctx-size is rendered by llamarig: declare serve.context in its place"),
    ),
    "flag that ends the server": (lambda: serve(extra=("--list-devices",)), ("print this and exit", "leave it out")),
    "flag that fetches an unpinned model": (
        lambda: serve(extra=("--gpt-oss-20b-default",)),
        ("a model that is not pinned",),
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
    "API key and a log that shows its end": (
        lambda: serve(api_key_file="/k", log_verbosity=4),
        ("log_verbosity = 4", "logs the last four characters of its API key", "declare 3 or less"),
    ),
    "most verbose log as a flag": (
        lambda: serve(extra=("-v",)),
        ("-v is rendered by llamarig: declare serve.log_verbosity = 5",),
    ),
    "most verbose log as a flag with underscores": (
        lambda: serve(extra=("--log_verbose",)),
        ("--log-verbose is rendered by llamarig: declare serve.log_verbosity = 5",),
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
    "KV type that does not exist": (
        lambda: serve(cache_type_k="q6_0"),
        ("cache_type_k = 'q6_0'", '"q8_0"', "did you mean q8_0?"),
    ),
    "split mode that no longer loads": (
        lambda: serve(split_mode="row"),
        ("split_mode = 'row'", "no longer has it", "choose 'layer'"),
    ),
    "GPU by number": (lambda: serve(gpus=("0", "1")), ("'0' names no GPU", "nvidia-smi -L", "--list-devices")),
    "a GPU twice": (lambda: serve(gpus=(UUID, UUID)), ("the same GPU twice",)),
    "GPUs of a build for the CPU": (
        lambda: rig([model(serve=serve(gpus=(UUID,)))]),
        ("model 'm': gpus has 'GPU-11111111-", "build 'cpu' is for cpu, whose GPUs are none"),
    ),
    "NVIDIA's UUIDs for another backend": (
        lambda: rig([model(serve=serve(gpus=(UUID,)))], [build(backend="vulkan")]),
        ("is for vulkan, whose GPUs are names as `llama-server --list-devices` prints them: Vulkan0",),
    ),
    "devices of another backend": (
        lambda: rig([model(serve=serve(gpus=("Vulkan1",)))], [build(backend="hip", architectures=("gfx1100",))]),
        ("gpus has 'Vulkan1'", "is for hip", "ROCm0"),
    ),
    "names of CUDA's devices": (
        lambda: rig([model(serve=serve(gpus=("CUDA0",)))], [cuda()]),
        ("gpus has 'CUDA0'", "is for cuda", "UUIDs as `nvidia-smi -L` prints them"),
    ),
    "a split of cpu_moe without a share": (lambda: d.cpu_moe(layers=2, split=(0, 0)), ("split gives no GPU a layer",)),
    "a number that JSON does not have": (
        lambda: serve(chat_template_kwargs={"share": [float("nan")]}),
        ("JSON has no infinite number and no NaN",),
    ),
    "pooling of completions": (
        lambda: serve(pooling="mean"),
        ('pooling is for task = "embeddings", and completions have none', "leave it out"),
    ),
    "pooling of a reranking": (lambda: serve(task="rerank", pooling="cls"), ("reranking has one of its own",)),
    "embeddings as extra": (
        lambda: serve(extra=("--embedding",)),
        ("--embedding is rendered by llamarig", 'declare serve.task = "embeddings" in its place'),
    ),
    "a prefix with a slash at its end": (lambda: serve(api_prefix="/llama/"), ("api_prefix = '/llama/'", "as /llama")),
    "a certificate without its key": (
        lambda: serve(tls_certificate_file="/etc/llamarig/tls/chain.pem"),
        ("TLS needs both a certificate and its key",),
    ),
    "a certificate that is no path": (
        lambda: serve(tls_certificate_file="chain.pem", tls_key_file="/k"),
        ("tls_certificate_file = 'chain.pem'", "write the absolute path"),
    ),
    "TLS of a build without it": (
        lambda: rig([model(serve=serve(tls_certificate_file="/c", tls_key_file="/k"))]),
        ("model 'm' has a certificate", "compiled without TLS", "tls=True"),
    ),
    "a directory to write to": (
        lambda: serve(extra=("--slot_save_path", "/srv")),
        ("--slot-save-path: the unit has no writable directory but a /tmp of its own",),
    ),
    "tools in containers": (
        lambda: serve(extra=("--tools-runtime", "docker:debian"), accept={"--tools": "my own"}),
        ("--tools-runtime: the sandbox of the unit has neither",),
    ),
    "real-time threads behind the declaration's back": (
        lambda: serve(extra=("--prio-batch", "2")),
        ("--prio-batch: the unit allows real-time threads only with serve.priority",),
    ),
    "a context of each slot": (
        lambda: serve(extra=("--kv-unified-per-slot", "4096")),
        ("--kv-unified-per-slot: it is read only without a context",),
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
        lambda: serve(extra=("--media_path", "/srv")),
        ("extra: --media-path: clients of the API can have every file",),
    ),
    "risky flag without a reason": (
        lambda: serve(extra=("--path", "/srv"), accept={"--path": " "}),
        ("--path is accepted without a reason",),
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
    "speculation by magic": (lambda: d.speculation(types=("magic",)), ("types[0] = 'magic'", '"ngram-mod"')),  # type: ignore[arg-type]  # the mistake
    "sleep after no time": (lambda: serve(sleep_idle_s=0), ("sleep_idle_s = 0", "write a number, more than 0")),
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
        ("environment = ", "LLAMA_ARG_CTX_SIZE", "llama-server reads it as a flag", "declare serve.context"),
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
        ("serve: extra = ", "--model is rendered by llamarig: declare files in its place"),
    ),
    "Hub token as extra": (
        lambda: model(serve=serve(extra=("--hf-token", "hf_s3cret"))),
        ("--hf-token is rendered by llamarig: declare hub.token_env",),
    ),
    "environment name with a dash": (lambda: serve(environment={"A-B": "1"}), ("'A-B' is no environment variable",)),
    "line break in the environment": (
        lambda: serve(environment={"A": "1\n2"}),
        ("A: a systemd unit cannot contain a line",),
    ),
    "line break in an argument": (lambda: serve(extra=("a\nb",)), ("a systemd unit cannot contain a line break",)),
    "yarn that scales nothing": (lambda: serve(yarn_scale=1), ("yarn_scale = 1", "write a number, more than 1")),
    "split for another number of GPUs": (
        lambda: d.layers(gpu=(13, 6), split=(49,)),
        ("layers: ", "gpu names 2 GPUs, split 1", "one number per GPU"),
    ),
    "more whole layers than the split gives": (
        lambda: d.layers(gpu=(13, 17), split=(32, 17)),
        ("gpu[1] = 17 whole layers", "split gives GPU 1 only 16", "lower gpu[1] or raise split[1]"),
    ),
    "override of nothing": (
        lambda: d.override(),
        ("override() places nothing: give rules, gpu_layers or split, or declare all_on_gpu()",),
    ),
    "override without a share": (
        lambda: d.override(split=(0, 0)),
        ("split gives no GPU a layer: declare cpu_only()",),
    ),
    "import from a relative path": (
        lambda: model(import_from=("models",)),
        ("'models': write the absolute path of a directory on the box",),
    ),
    "import from a directory above": (
        lambda: model(import_from=("/models/../etc",)),
        ("'/models/../etc': write the absolute path of a directory on the box",),
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
    "a flag as a field": (lambda: serve(temp=0.7), ("temp = 0.7", "did you mean sampling.temperature?")),
    "a field of another declaration": (
        lambda: model(context=4096),
        ("context = 4096: no such field: it belongs to d.serve(context=...)",),
    ),
    "a field of another declaration, misspelt": (
        lambda: serve(temperatur=1),
        ("no such field (did you mean temperature of d.sampling(...)?)",),
    ),
    "a text in place of a tuple": (
        lambda: cuda(architectures="89-real"),
        ('write them in round brackets, a comma after each: architectures=("89-real",)',),
    ),
    "a number in place of a text": (
        lambda: build(cuda_toolkit=13.5),
        ('write a text, in quotes: cuda_toolkit="13.5"',),
    ),
    "a text in place of a placement": (lambda: serve(placement="cpu-only"), ("write d.cpu_only(...)",)),
    "a list in place of pairs": (
        lambda: serve(environment=["A"]),
        ('write pairs in curly brackets: environment={"NAME": "VALUE"}',),
    ),
    "a word in place of yes or no": (lambda: serve(metrics="please"), ("write True or False",)),
    "one build in place of a list": (
        lambda: d.rig(builds=build(), models=[]),
        ("rig: builds is no list: write builds=[d.build(...)]",),
    ),
    "a text in place of a model": (
        lambda: d.rig(builds=[build()], models=["qwen3-coder"]),  # type: ignore[list-item]  # the mistake
        ("rig: models[0] = 'qwen3-coder': write d.model(...)",),
    ),
    "a declaration that does not exist": (lambda: d.modle(name="m"), ("d.modle: there is no", "did you mean model?")),
    "override rules as extra": (
        lambda: serve(extra=("-ot", "exps=CPU")),
        ("placement = override(rules=...)", "`llamarig adopt` translates a whole command line"),
    ),
    "many owned flags as extra": (
        lambda: serve(extra=("-c", "4096", "-hf", "o/r:Q4", "--no-mmap", "--mlock", "--slot-save-path", "/srv")),
        (
            "-c is rendered by llamarig: declare serve.context",
            "-hf is rendered by llamarig: declare repo and revision",
            '--no-mmap is rendered by llamarig: declare serve.load_mode = "mlock" in its place',
            '--mlock is rendered by llamarig: declare serve.load_mode = "mlock" in its place',
            "--slot-save-path: the unit has no writable directory",
            "`llamarig adopt` translates a whole command line",
        ),
    ),
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
    accepted = serve(extra=("-ag", "--media_path", "/srv"), accept={"--agent": "mine", "--media-path": "mine"})
    assert accepted.extra == ("-ag", "--media_path", "/srv")
    with pytest.raises(DeclarationError, match="--rpc"):
        serve(extra=("-ag", "--rpc", "lan:1"), accept={"--agent": "mine"})


@pytest.mark.parametrize("flag", ["--props", "--lookup-cache-dynamic"])
def test_a_flag_that_gives_clients_nothing_needs_no_acceptance(flag: str) -> None:
    """POST /props sets nothing, and the dynamic cache is never saved (pinned commit: tests/refusals/EVIDENCE.md)."""
    assert serve(extra=(flag,)).extra == (flag,)


def test_models_that_exclude_each_other_may_share_a_port() -> None:
    rig([model(), model(name="n")])


@pytest.mark.parametrize(
    "declare",
    [
        lambda: serve(extra=("--api-key", "s3cret")),
        lambda: serve(extra=("--api-key=s3cret",)),
        lambda: serve(api_key="s3cret"),
        lambda: d.hub(token="hf_s3cret"),  # type: ignore[call-arg]  # the mistake
        lambda: serve(alias=["hf_s3cret"]),
        lambda: model(serve=serve(extra=("--hf-token", "hf_s3cret"))),
    ],
)
def test_a_secret_is_not_repeated(declare: Callable[[], object]) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    assert "s3cret" not in str(refused.value)


TOKEN = "hf_" + "s3cret" * 6


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda: d.build(name="cpu", backend="cpu", cmake={"X": "https://me:s3cret@h/x"}), "cmake holds a login"),
        (lambda: d.hub(token_command=("echo", TOKEN)), "token_command holds a token"),
        (lambda: d.git_source(url=f"https://h/{TOKEN}/l.git", commit="a" * 40), "url holds a token"),
        (lambda: model(repo=f"org/{TOKEN}"), "repo holds a token"),
        (lambda: serve(extra=("--mcp-servers-json", '{"env": {"API_TOKEN": "s3cret"}}')), "looks like a secret"),
    ],
)
def test_a_secret_in_any_field_is_refused_and_not_repeated(declare: Callable[[], object], words: str) -> None:
    with pytest.raises(DeclarationError, match=words) as refused:
        declare()
    assert "s3cret" not in str(refused.value)


def test_names_that_only_begin_like_tokens_are_accepted() -> None:
    model(repo="hf_internal/hf_tiny_random_model", files=("sk-tiny-model.gguf",), quant=None)
    d.git_source(url="ssh://git@host/llama.cpp.git", commit="a" * 40)


@pytest.mark.parametrize(
    ("host_data", "words"),
    [
        ("d.serve(port=8080, context=4096, ubatch=4096)", ("serve: ubatch 4096 is larger than batch 2048", "lower it")),
        ('d.git_source(commit="b8149")', ("git_source: commit = 'b8149'", "not a full commit")),
        ("d.rig(build=())", ("rig: ", "build = ()", "no such field (did you mean builds?)")),
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
