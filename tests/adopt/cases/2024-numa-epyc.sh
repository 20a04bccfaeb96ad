numactl --cpunodebind=0 --membind=0 ./llama-server -m /mnt/nvme/DeepSeek-V2-Chat.Q4_K_M.gguf --numa -t 32 -tb 64 -c 4096 -ngl 0 --no-mmap --override-kv deepseek2.expert_used_count=int:4
