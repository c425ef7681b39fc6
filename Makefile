# Forwards to `cargo xtask`, which holds the logic.
.PHONY: demo test

demo:
	@echo "==> building the runner"
	@cargo xtask demo $(if $(filter-out 0,$(PLAIN)),--plain)

test:
	@echo "==> building the runner"
	@cargo xtask test
