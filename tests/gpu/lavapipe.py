"""Inventory of the rehearsal box with a Vulkan build that runs on Mesa's software driver. See README.md."""

from llamarig import declare as d

from tests.box.paths import ADDRESS, Rehearsal

_box = Rehearsal.from_environment()

_rig = d.rig(
    builds=[
        d.build(
            name="vulkan",
            backend="vulkan",
            source=d.sdist_source(
                package="llama-cpp-python",
                version="0.3.36",
                sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
                commit="0c1e57098bba43ac29e6e3b677cdceebdd22334f",
            ),
        )
    ],
    models=[
        d.model(
            name="tiny",
            repo="llamarig/Tiny-Qwen3-Next-GGUF",
            quant="F16",
            build="vulkan",
            serve=d.serve(
                port=_box.port + 10,
                context=2048,
                ubatch=256,
                placement=d.all_on_gpu(),
                # llama.cpp passes software drivers over unless they are named.
                environment={"GGML_VK_VISIBLE_DEVICES": "0"},
                cache_ram_mib=64,
            ),
        )
    ],
    host=d.host_policy(swappiness=None, disk_reserve_gib=1),
    hub=d.hub(endpoint=f"http://{ADDRESS}:{_box.hub_port}"),
    model_lock=str(_box.model_lock),
)

lavapipe = [
    (
        "lavapipe-box",
        {
            "ssh_hostname": ADDRESS,
            "ssh_port": _box.port,
            "ssh_user": "root",
            "ssh_key": str(_box.key),
            "ssh_known_hosts_file": str(_box.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "rig": _rig,
        },
    )
]
