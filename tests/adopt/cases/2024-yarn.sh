./llama-server -m Qwen2.5-7B-Instruct-Q5_K_M.gguf -c 131072 --rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 32768 -ngl 99 -fa --samplers "top_k;typ_p;top_p;min_p;temperature" -n -1
