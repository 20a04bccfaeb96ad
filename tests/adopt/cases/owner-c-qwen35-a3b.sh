llama-server -m ~/models/Qwen3.5-35B-A3B-Q4_K_M.gguf --mmproj ~/models/mmproj-BF16.gguf -c 65536 --n-cpu-moe 24 -ngl 99 --cache-type-k q8_0 --cache-type-v q8_0 --flash-attn on --jinja --temp 0.6
