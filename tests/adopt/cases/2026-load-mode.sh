llama-server -m /models/gpt-oss-120b-F16.gguf -lm mlock -ncmoe 24 -c 65536 -np 1 --reasoning-budget 4096 --reasoning on --reasoning-effort low --cors-origins https://chat.lan
