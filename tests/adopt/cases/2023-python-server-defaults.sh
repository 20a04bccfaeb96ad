python -m llama_cpp.server --model=./zephyr-7b-beta.Q4_K_M.gguf
