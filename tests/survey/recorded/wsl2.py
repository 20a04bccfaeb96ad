"""WSL2, AMD Ryzen 7 5800X, 8 cores, 64 GB RAM, Ubuntu 24.04.3 LTS.

As tasks/survey.py found wsl2.lan. It never writes this file again.
"""

from llamarig import declare as d

from group_data.all import llama_cpp_commit

rig = d.rig(
    builds=[
        # This box is WSL2, whose GPU llamarig does not serve: Windows has its driver, and shows it only as /dev/dxg.
        d.build(
            name="cpu",
            source=d.git_source(commit=llama_cpp_commit),
            backend="cpu",
        ),
    ],
    models=[
        # No model yet: a deploy only builds llama.cpp. What fits here, and the line to paste, is printed by
        #   pyinfra -y inventory/home.py tasks/choose.py --data repo=unsloth/Qwen3-30B-A3B-GGUF
        # Or begin with this one, which may not fit, without the comment signs:
        # d.model(
        #     name="qwen3-30b-a3b",
        #     repo="unsloth/Qwen3-30B-A3B-GGUF",
        #     quant="Q4_K_M",
        #     build="cpu",
        #     serve=d.serve(
        #         port=8080,
        #         context=32768,
        #         placement=d.cpu_only(),
        #     ),
        # ),
    ],
    # The RAM's speed is not known: the firmware has no table that dmidecode can read (a container?).
    # Its rated speed would be declared here: memory_mts=6000 of a DDR5-6000 kit.
    # Model files go to /var/lib/llamarig/models, where 800 GiB are free (ext4).
)
