#!/bin/bash
# Best quality, 21.4 t/s.
exec /opt/llama.cpp/build/bin/llama-server \
  -m /models/UD-Q6_K_XL/Qwen3-Coder-Next-UD-Q6_K_XL-00001-of-00003.gguf \
  -c 262144 -b 2048 -ub 2048 \
  --jinja -np 1 --no-context-shift --flash-attn on --cache-type-k q8_0 --cache-type-v q8_0 \
  --split-mode layer --main-gpu 0 -ngl 99 --fit off \
  -ot "blk\.([0-9]|1[0-2])\.=CUDA0,blk\.(1[3-8])\.=CUDA1,exps=CPU" \
  --temp 1.0 --top-p 0.95 --top-k 40 --min-p 0 --port 8080
