./server -m ./models/llama-2-13b-chat.Q5_K_M.gguf -c 4096 -ngl 35 --host 0.0.0.0 --port 8081 -t 8
