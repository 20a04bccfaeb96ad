llama-server -m ~/.cache/huggingface/hub/models--unsloth--Qwen3-14B-GGUF/snapshots/0123456789abcdef0123456789abcdef01234567/Qwen3-14B-Q5_K_M.gguf -c 40960 -ngl 99 -np 1 --threads $(nproc)
