# What a developer types; everything is done by `python3 -m tests` and `python3 -m tests.box`.

.PHONY: rehearsal test lint down destroy

rehearsal:
	python3 -m tests rehearsal

test:
	python3 -m tests check

lint:
	python3 -m tests lint

down:
	python3 -m tests.box down

destroy:
	python3 -m tests.box destroy
