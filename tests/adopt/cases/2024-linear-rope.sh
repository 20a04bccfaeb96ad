./server -m vicuna-13b-16k.Q4_K_M.gguf -c 8192 --rope-scaling linear --rope-scale 4 --rope-freq-base 10000 -ngl 43 --mirostat 2 --mirostat-lr 0.1
