"""The disposable box of this machine: a tiny model and no GPU; everything else is as on a real box."""

from llamarig import declare as d

from inventory.rehearsal_box import ADDRESS, RehearsalBox

__all__ = ["rig"]

_box = RehearsalBox.from_environment()

rig = d.rig(
    builds=[
        d.build(
            name="cpu",
            backend="cpu",
            # The source tree of the default commit, from PyPI: a rehearsal needs only PyPI and Debian's mirrors.
            source=d.sdist_source(
                package="llama-cpp-python",
                version="0.3.36",
                sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
                commit="0c1e57098bba43ac29e6e3b677cdceebdd22334f",
            ),
            # An emulated processor lacks instructions of this machine's, which compiles for it.
            cmake={"GGML_NATIVE": "OFF"} if _box.disk.exists() else {},
        )
    ],
    models=[
        d.model(
            name="tiny",
            repo="llamarig/Tiny-Qwen3-Next-GGUF",
            quant="F16",
            build="cpu",
            serve=d.serve(
                port=_box.model_port,
                # From 4096 on, a deploy checks a long prompt, for which an emulated processor needs over ten minutes.
                context=2048 if _box.disk.exists() else 8192,
                ubatch=512,
                placement=d.cpu_only(),
                load_mode="none",
                # Two threads wait for each other in a loop, which costs most where others use the processors as well.
                threads=1,
                sampling=d.sampling(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0),
                cache_ram_mib=64,
            ),
        )
    ],
    # A container shares the kernel of its host, so a swappiness set in it would be this machine's.
    host=d.host_policy(swappiness=None, disk_reserve_gib=1),
    hub=d.hub(endpoint=f"http://{ADDRESS}:{_box.hub_port}"),
    model_lock=str(_box.model_lock),
    bench_ledger=str(_box.bench_ledger),
)
