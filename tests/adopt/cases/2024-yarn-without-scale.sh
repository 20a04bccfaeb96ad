llama-server -m Qwen2.5-14B-Instruct-1M-Q4_K_M.gguf -c 65536 --rope-scaling yarn --yarn-orig-ctx 262144 -ngl 99
