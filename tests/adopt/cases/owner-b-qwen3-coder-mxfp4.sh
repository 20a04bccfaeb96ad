#!/usr/bin/env bash
export LLAMA_SET_ROWS=1
export GGML_CUDA_GRAPH_OPT=1
taskset -c 0-11 ./llama-server \
    --model ./Qwen3-Coder-Next-MXFP4_MOE.gguf \
    --alias unsloth/Qwen3-Coder-Next --seed 3407 --temp 1.0 --top-p 0.95 --min-p 0.01 --top-k 40 \
    --host 0.0.0.0 --port 8001 --jinja --no-mmap --mlock --threads 10 --threads-batch 12 --flash-attn on \
    --ctx-size 131072 --fit on --fit-ctx 131072 --fit-target 128 --batch-size 2048 --ubatch-size 512 --prio 2 --no-warmup
