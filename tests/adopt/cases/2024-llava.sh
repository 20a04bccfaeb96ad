./server -m ./ggml-model-q5_k.gguf --mmproj ./mmproj-model-f16.gguf -c 4096 -ngl 99 --log-format text --chat-template vicuna
