./llama-server -m ./GGUF/GLM-4.5-Air-Q4_K_M.gguf -c 32768 -ngl 999 -fa on -t 16 -b 4096 -ub 4096 --jinja --no-mmap -ot "blk\.([0-9]|1[0-4])\.=CUDA0,exps=CPU"
