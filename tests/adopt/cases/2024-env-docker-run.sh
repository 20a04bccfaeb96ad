docker run -d --name llama --gpus '"device=1"' -v /srv/models:/models:ro -p 127.0.0.1:8000:8080 \
  -e LLAMA_ARG_MODEL=/models/Phi-3.5-mini-instruct-Q4_K_M.gguf -e LLAMA_ARG_CTX_SIZE=4096 -e LLAMA_ARG_N_GPU_LAYERS=99 \
  -e LLAMA_ARG_N_PARALLEL=2 -e LLAMA_ARG_ENDPOINT_METRICS=1 ghcr.io/ggerganov/llama.cpp:server-cuda
