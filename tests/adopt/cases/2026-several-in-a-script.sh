#!/bin/sh
set -eu
DIR=${MODELS_DIR:-/srv/models}
start() {
  nohup llama-server --host 127.0.0.1 -ngl 99 -np 1 "$@" &
}
llama-server -m "$DIR/Qwen3-8B-Q6_K.gguf" -c 40960 --port 8081 -ngl 99 -np 1 &
llama-server -m "$DIR/bge-m3-Q8_0.gguf" -c 8192 --port 8082 --embeddings -ub 8192 -b 8192 -np 1 &
wait
