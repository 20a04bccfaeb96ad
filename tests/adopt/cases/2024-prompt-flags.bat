@echo off
llama-server.exe ^
  -m "D:\LLM\gemma-2-9b-it-Q6_K_L.gguf" ^
  -ngl 43 -c 8192 --color -cnv -p "You are helpful" --top_k 40 --repeat_penalty 1.1 ^
  --verbose
