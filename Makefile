# `make demo`, `make watch-demo`, `make test` and `make bench` set up what is missing here (see
# tools/setup).

# What `make demo` looks at: libvirt's own test hypervisor, or a host like qemu:///system.
URI ?= test:///default

# The tools of the virtual environment first; programs of an administrator at last.
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin

# Python reads where its packages are by the locale, and this folder's name may not be ASCII.
export LC_ALL := C.UTF-8

# `python -m` is to find what is here, and tests are to assert what they say.
unexport PYTHONSAFEPATH PYTHONOPTIMIZE PYTHONWARNDEFAULTENCODING

# Cargo keeps at home what it downloads, or else here.
ifeq ($(CARGO_HOME)$(shell [ -z "$$HOME" ] || [ -w "$$HOME" ] && echo "there is one"),)
export CARGO_HOME := $(CURDIR)/build/cargo
endif

.PHONY: demo watch-demo test bench check wheel clean

demo:
	@tools/setup demo
	@python -m virtmeter.cli stats --all --uri '$(URI)'

# `virtmeter watch` over a libvirt host, a XenServer pool and a vCenter, all of them simulated.
watch-demo:
	@tools/setup watch-demo
	@python -m tests.support.demo

# Most tests wait, so that even two cores have work for three of them. Those of faults have short
# deadlines, which are missed where others compute, and have the machine for themselves.
test:
	@tools/setup test
	@$(MAKE) --no-print-directory check
	@python -m pytest -n 3 --ignore tests/faults
	@python -m pytest tests/faults

# Beside the stock inspector: docs/benchmarks.md, or a part of it, as in `make bench ONLY=real`.
bench:
	@tools/setup bench
	@python -m benches $(ONLY)

# dist/virtmeter-*.whl, to be installed without compiler, headers or Rust.
wheel:
	@tools/setup wheel
	@tools/wheel
	@ls dist/*.whl

# Everything that needs no rig: formatting, lints, types, and the core's own tests; what is unsafe in workflows.
check:
	cargo fmt --check
	cargo clippy --locked --all-targets --no-default-features -- -D warnings
	cargo clippy --locked --all-targets --no-default-features --features https -- -D warnings
	cargo clippy --locked --lib -- -D warnings
	cargo test --locked --no-default-features --features https --quiet
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --no-default-features --features https --quiet
	ruff check
	ruff format --check
	python -m mypy
	python -m mypy.stubtest virtmeter._native
	zizmor --offline --quiet .github

clean:
	rm -rf target .venv build dist
