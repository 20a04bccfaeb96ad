llama-server -m /models/bge-reranker-v2-m3-Q8_0.gguf -c 65536 -np 8 -b 8192 -ub 8192 --embedding --pooling rank --reranking -ngl 99 --port 8084 --metrics
