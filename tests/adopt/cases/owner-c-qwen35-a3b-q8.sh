llama-server -hf unsloth/Qwen3.5-35B-A3B-GGUF:Q8_0 -c 65536 --fit on -ctk q8_0 -ctv q8_0 --jinja
