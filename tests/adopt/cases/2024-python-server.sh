export CUDA_VISIBLE_DEVICES=0
python3 -m llama_cpp.server --model /models/openhermes-2.5-mistral-7b.Q5_K_M.gguf --n_gpu_layers -1 --n_ctx 8192 --chat_format chatml --host 0.0.0.0 --port 8000 --n_threads 6 --use_mlock true --flash_attn true --tensor_split 0.6 0.4 --type_k 8 --cache true
