llama-server -m /models/Qwen3-Coder-Next-UD-Q5_K_XL-00001-of-00003.gguf -ngl auto --fit on --fit-target 128,1024 -c 262144 -ub 512 -ctk q8_0 -ctv q8_0 -np 1 --jinja
