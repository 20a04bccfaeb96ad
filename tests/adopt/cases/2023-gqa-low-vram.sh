nohup ./server -m models/llama2-70b.q4_K_M.gguf -gqa 8 -eps 1e-5 -c 2048 --low-vram -nommq -ngl 40 --mlock --memory-f32 > server.log 2>&1 &
