# Shortcuts for developers. `python3 -m tests` and `python3 -m tests.box` do the work.

.PHONY: rehearsal test lint reference pictures cuda-lock down destroy

rehearsal:
	python3 -m tests rehearsal

test:
	python3 -m tests check

lint:
	python3 -m tests lint

# Write the fields of all declarations into group_data/README.md.
reference:
	.venv/bin/python -m tests.field_reference

# Record the pictures of the documentation on the rehearsal box.
pictures:
	.venv/bin/python -m tests.pictures

# Lock another CUDA version from PyPI: make cuda-lock VERSION=13.4
cuda-lock:
	python3 -m tests.cuda_lock $(VERSION)

down:
	python3 -m tests.box down

destroy:
	python3 -m tests.box destroy
