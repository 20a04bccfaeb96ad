# Shortcuts for developers. `python3 -m tests` and `python3 -m tests.box` do the work.

.PHONY: rehearsal test lint cuda-lock down destroy

rehearsal:
	python3 -m tests rehearsal

test:
	python3 -m tests check

lint:
	python3 -m tests lint

# Lock another CUDA version from PyPI: make cuda-lock VERSION=13.4
cuda-lock:
	python3 -m tests.cuda_lock $(VERSION)

down:
	python3 -m tests.box down

destroy:
	python3 -m tests.box destroy
