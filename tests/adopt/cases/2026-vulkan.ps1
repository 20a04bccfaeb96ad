PS D:\llama> .\llama-server.exe `
>>   -m "D:\LLM\Qwen3.6-27B-IQ4_NL.gguf" `
>>   -dev vulkan0 -ngl 99 -c 65536 -np 1 -dio `
>>   --chat-template-kwargs '{"preserve_thinking": true}' `
>>   --rpc 10.0.0.5:50052 --tools all --offline
