CUDA_VISIBLE_DEVICES=0,1 ./llama-server -m /models/Meta-Llama-3-70B-Instruct-Q4_K_M.gguf -ngl 81 -ts 3,2 -sm row -mg 1 -c 8192 -fa -ctk q8_0 -ctv q8_0
