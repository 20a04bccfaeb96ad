llama-server -m /models/Qwen3-30B-A3B-Instruct-2507-Q6_K.gguf --n-cpu-moe 20 -ngl 99 -ts 5,2 -c 65536 -fa on -ctk q8_0 -ctv q8_0 --jinja
