cd ~/llama.cpp && ./server -m ../gguf/mistral-7b-instruct-v0.1.Q4_K_M.gguf -c 16384 -np 4 -cb -ngl 100 --embedding --timeout 1200
