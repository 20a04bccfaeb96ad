llama-server -m /models/base-Q8_0.gguf --lora-scaled /loras/tone.gguf 0.6 --lora /loras/style.gguf --control-vector-layer-range 10 20 -c 4096 -ngl 99 -np 2
