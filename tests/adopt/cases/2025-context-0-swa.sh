llama-server -hf ggml-org/gemma-3-27b-it-GGUF -c 0 --swa-full -fa --cache-reuse 256 -ngl 99 --slot-save-path /tmp/slots --no-slots --props
