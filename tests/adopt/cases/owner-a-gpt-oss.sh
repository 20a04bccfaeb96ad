MODEL=/models/gpt-oss-120b-F16.gguf
COMMON="--jinja -np 1 --no-context-shift --flash-attn on --cache-type-k q8_0 --cache-type-v q8_0 --split-mode layer --main-gpu 0 -ngl 99 --fit off"
llama-server -m $MODEL -c 65536 -b 4096 -ub 4096 $COMMON -ot 'blk\.([0-9]|1[01])\.=CUDA0,blk\.(1[2-5])\.=CUDA1,exps=CPU'
