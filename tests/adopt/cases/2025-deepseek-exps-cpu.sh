./llama-server -m /raid/DeepSeek-R1-UD-Q2_K_XL/DeepSeek-R1-UD-Q2_K_XL-00001-of-00005.gguf -ngl 62 -ot exps=CPU -c 16384 -ctk q4_0 -fa -t 48 --no-warmup --host 127.0.0.1 --port 5000 --threads-http 4
