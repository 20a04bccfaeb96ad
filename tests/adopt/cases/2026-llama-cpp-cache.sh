llama-server -m /home/me/.cache/llama.cpp/bartowski_Qwen_Qwen3-32B-GGUF_Qwen_Qwen3-32B-Q4_K_L.gguf -c 16384 -ngl 99 -np 1 -lv 4 --log-file /var/log/llama.log
