./llama-server -m Kimi-K2-Instruct-UD-Q2_K_XL-00001-of-00008.gguf -ngl 99 -ot "blk\.(3|4|5)\.ffn_.*=CUDA0" -ot "blk\.(6|7)\.ffn_.*=CUDA1" -ot exps=CPU -c 32768 -mla 3 -fa -fmoe -amb 512 -rtr
