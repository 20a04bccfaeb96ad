llama-server --models-preset 2026-models.ini --models-max 1 --host 127.0.0.1 --port 8087 --threads-http 4
