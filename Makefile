# Everything starts here; `make help` lists the targets.
#
# One job at a time, whatever -j says: two pips must not write one .venv, and `make clean test`
# means first the one and then the other.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11 python3
ARGS ?=
PYTEST := $(BIN)/python -m pytest
APART := --ignore=tests/conformance
UNBOOTED := --ignore=tests/guest/test_guest.py
QUICK := $(PYTEST) $(APART) $(UNBOOTED) -m "not slow" --hypothesis-profile=fast
TYPED := meta_cni delegates examples
COVERED := meta_cni/cni meta_cni/engine
BRANCHES_PERCENT := 95

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test check lint types fast conformance sequences soak bench golden clean reference-plugins newest-reference packet-filters musl-compiler container-runtime kustomize kubernetes-programs multus multus-test FORCE

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

run: $(VENV)/.run ## attach two telco pods on this kernel, in a private namespace (ARGS=--keep leaves them up)
	@exec $(BIN)/python examples/run.py $(ARGS)

# Newer ones are for `make conformance` to find: they must not turn this run red.
test: REFERENCE := v1.10.0
test: lint types reference-plugins newest-reference packet-filters guest-programs musl-compiler container-runtime kustomize kubernetes-programs ## everything: lint, types, all tests, beside the reference plugins and on Debian's kernel too, branch coverage
	@$(PYTEST) -m "not older" $(COVERED:%=--cov=%) --cov-branch --cov-report=term:skip-covered \
		--cov-report=json:.coverage.json --branches-at-least=$(BRANCHES_PERCENT)

check: lint types fast ## lint, types and the fast tests, in under a minute

lint: $(VENV)/.test ## ruff
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test ## mypy --strict
	@$(BIN)/mypy --strict $(TYPED)

# They wait for the kernel and for clocks more than they compute: so five run side by side.
ASIDE := netns/test_[a-d]* netns/test_[e-i]* netns/test_[j-z]* k8s
fast: $(VENV)/.test ## every test that is not marked slow
	@told=$$(mktemp -d)
	trap 'rm -rf "$$told"' EXIT
	status=0
	aside=()
	for each in $(ASIDE:%="tests/%"); do
		$(QUICK) $$each >"$$told/$${#aside[@]}" 2>&1 &
		aside+=($$!)
	done
	$(QUICK) --ignore=tests/netns --ignore=tests/k8s || status=$$?
	for each in "$${aside[@]}"; do
		wait "$$each" || status=$$?
	done
	cat "$$told"/*
	exit $$status

sequences: $(VENV)/.test packet-filters ## 10 000 random sequences of calls, or as many as SEQUENCES says (SEQUENCE_SEED=n: that one)
	@SEQUENCES=$(or $(SEQUENCES),10000) $(PYTEST) tests/netns/test_sequences.py

soak: $(VENV)/.test reference-plugins packet-filters ## runtimes at work for 10 minutes, or SOAK_S seconds, while their daemon is killed again and again
	@SOAK_S=$(or $(SOAK_S),600) $(PYTEST) -rP tests/netns/test_daemon_soak.py

bench: $(VENV)/.test reference-plugins ## ours, Multus and the bare kernel: writes bench.json and README's figures (ARGS=quick writes none)
	@$(BIN)/python -m tests.bench $(ARGS)

golden: $(VENV)/.test ## write the golden files anew; read the diff before committing it
	@$(PYTEST) $(APART) $(UNBOOTED) -m "not slow" --golden

conformance: $(VENV)/.test reference-plugins newest-reference packet-filters ## every scenario in every CNI version, by the newest reference plugins and by ours (ARGS="-k sbr")
	@$(PYTEST) tests/conformance $(ARGS)

multus-test: $(VENV)/.test reference-plugins multus ## everything that Multus documents, by Multus itself and by ours (META_CNI_MULTUS=directory: that one)
	@$(PYTEST) tests/netns/test_beside_multus.py $(ARGS)

guest-test: $(VENV)/.test reference-plugins newest-reference packet-filters guest-programs ## the tests of the kernel on Debian's own, emulated (ARGS="-k vlan")
	@$(PYTEST) tests/guest $(ARGS)

clean: ## remove everything made here, the virtual environment included
	@rm -rf $(VENV) .reference build dist *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# As root, a Debian package that is missing is installed; the lists of a fresh image are empty, hence the second try.
define APT_INSTALL
apt_install() {
	local install="apt-get install -y -qq --no-install-recommends $$*"
	export DEBIAN_FRONTEND=noninteractive
	{ $$install 2>/dev/null || { apt-get update -qq && $$install; }; } </dev/null >/dev/null
}
may_apt() { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
endef

# A virtual environment knows its own path; one that was copied or moved here is made again.
ifneq ($(file <$(VENV)/.made),$(CURDIR))
$(VENV)/.made: FORCE
endif
$(VENV)/.made:
	@$(APT_INSTALL)
	recent() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
	python=
	for name in $(PYTHON); do if recent "$$name"; then python=$$name; break; fi; done
	if [ -z "$$python" ]; then
		echo "no Python 3.11 or newer among: $(PYTHON); install one, or name it: make PYTHON=/path/to/python3" >&2
		exit 1
	fi
	package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	make_venv() { rm -rf $(VENV); "$$python" -m venv $(VENV); }
	echo "making $(VENV) with $$("$$python" --version) ..."
	if ! reason=$$(make_venv 2>&1); then
		if ! may_apt; then
			rm -rf $(VENV)
			echo "$$reason" >&2
			echo "$$python makes no virtual environment here; on Debian, as root: apt-get install $$package" >&2
			exit 1
		fi
		echo "installing $$package ..."
		apt_install "$$package"
		make_venv
	fi
	printf '%s' '$(CURDIR)' >$@

$(VENV)/.run: $(VENV)/.made pyproject.toml
	@echo "installing into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	@echo "installing into $(VENV), with the test tools ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $(VENV)/.run $@

# The reference plugins are compared with ours, side by side; tests that need them skip where they are not.
reference-plugins:
	@$(APT_INSTALL)
	for directory in /usr/lib/cni /opt/cni/bin; do if [ -x "$$directory/bridge" ]; then exit 0; fi; done
	if ! may_apt; then
		echo "no reference CNI plugins here: their tests will skip; on Debian, as root: apt-get install containernetworking-plugins"
		exit 0
	fi
	echo "installing containernetworking-plugins ..."
	if ! apt_install containernetworking-plugins; then
		echo "no reference CNI plugins: their tests will skip"
		[ "$${CI:-}" != true ]
	fi

# What masquerade and MAC checks are made with; tests that need them skip where they are not.
packet-filters:
	@$(APT_INSTALL)
	if command -v nft >/dev/null && command -v iptables >/dev/null; then exit 0; fi
	if ! may_apt; then
		echo "no nft or no iptables here: their tests will skip; on Debian, as root: apt-get install nftables iptables"
		exit 0
	fi
	echo "installing nftables and iptables ..."
	if ! apt_install nftables iptables; then
		echo "no nft or no iptables: their tests will skip"
		[ "$${CI:-}" != true ]
	fi

# What unpacks and boots a kernel and builds a module for it; the tests fetch these themselves, into ~/.cache/meta-cni-guest.
GUEST_PROGRAMS := qemu-system-x86_64:qemu-system-x86 depmod:kmod gcc:gcc make:make xz:xz-utils
guest-programs:
	@$(APT_INSTALL)
	PATH=$$PATH:/usr/sbin:/sbin
	missing=()
	for each in $(GUEST_PROGRAMS); do command -v "$${each%%:*}" >/dev/null || missing+=("$${each##*:}"); done
	if [ "$${#missing[@]}" = 0 ]; then exit 0; fi
	if ! may_apt; then
		echo "some of the guest's tests will skip; on Debian, as root: apt-get install $${missing[*]}"
		exit 0
	fi
	echo "installing $${missing[*]} ..."
	if ! apt_install "$${missing[@]}"; then
		echo "no $${missing[*]}: the guest's tests will skip"
		[ "$${CI:-}" != true ]
	fi

# What the image compiles the shim with; its test skips where it is not.
musl-compiler:
	@$(APT_INSTALL)
	if command -v musl-gcc >/dev/null; then exit 0; fi
	if ! may_apt; then
		echo "no musl-gcc here: its tests will skip; on Debian, as root: apt-get install musl-tools"
		exit 0
	fi
	echo "installing musl-tools ..."
	if ! apt_install musl-tools; then
		echo "no musl-gcc: its tests will skip"
		[ "$${CI:-}" != true ]
	fi

# Two container runtimes, and what a container of their tests is made of; they skip where these are not.
RUNTIMES := containerd:containerd podman:podman conmon:conmon runc:runc busybox:busybox-static
container-runtime:
	@$(APT_INSTALL)
	PATH=$$PATH:/usr/sbin:/sbin
	missing=()
	for each in $(RUNTIMES); do command -v "$${each%%:*}" >/dev/null || missing+=("$${each##*:}"); done
	if [ "$${#missing[@]}" = 0 ]; then exit 0; fi
	if ! may_apt; then
		echo "tests of containerd or podman will skip; on Debian, as root: apt-get install $${missing[*]}"
		exit 0
	fi
	echo "installing $${missing[*]} ..."
	if ! apt_install "$${missing[@]}"; then
		echo "no $${missing[*]}: tests of containerd or podman will skip"
		[ "$${CI:-}" != true ]
	fi

# What reads deploy/; kubectl has it in it, but for old ones. Else it is built, where there is Go.
KUSTOMIZE := sigs.k8s.io/kustomize/kustomize/v5@v5.5.0
kustomize:
	@if kubectl version --client 2>/dev/null | grep -q 'Kustomize Version: v[5-9]' || [ -x .reference/bin/kustomize ]; then exit 0; fi
	if ! command -v go >/dev/null; then
		echo "no kubectl with kustomize 5, and no Go to build it: the tests of deploy/ will skip"
		exit 0
	fi
	echo "building kustomize ..."
	directory=$(CURDIR)/.reference
	trap 'rm -rf "$$directory/kustomize"' EXIT
	export GOPATH=$$directory/kustomize/go GOCACHE=$$directory/kustomize/build GOBIN=$$directory/bin GOFLAGS=-modcacherw CGO_ENABLED=0
	if ! go install $(KUSTOMIZE) 2>$$directory.log; then
		tail -n 3 $$directory.log >&2
		echo "kustomize is not built: the tests of deploy/ will skip"
		[ "$${CI:-}" != true ]
	fi
	rm -f "$$directory.log"

# What ours is held to, by the version that the table is about: once a machine, where there is Go. A proxy need not list
# the versions of a module, so it is not `go install`.
MULTUS := gopkg.in/k8snetworkplumbingwg/multus-cni.v4@v4.3.0
MULTUS_CACHE := $(HOME)/.cache/meta-cni-multus/$(lastword $(subst @, ,$(MULTUS)))
multus:
	@if [ -n "$${META_CNI_MULTUS:-}" ] || [ -x $(MULTUS_CACHE)/multus ]; then exit 0; fi
	if ! command -v go >/dev/null; then
		echo "no Go to build Multus: the tests beside it will skip"
		exit 0
	fi
	echo "building Multus ..."
	mkdir -p $(MULTUS_CACHE)
	work=$$(mktemp -d)
	trap 'rm -rf "$$work"' EXIT
	export GOPATH=$$work/go GOCACHE=$$work/build GOFLAGS=-modcacherw CGO_ENABLED=0
	if ! { go mod download -json $(MULTUS) >$$work/told &&
		go build -C "$$(sed -nE 's/^\t"Dir": "(.*)",?$$/\1/p' $$work/told)" -o $$work/multus ./cmd/multus; } 2>$$work/log; then
		tail -n 3 $$work/told $$work/log >&2
		echo "Multus is not built: the tests beside it will skip"
		[ "$${CI:-}" != true ]
		exit
	fi
	mv $$work/multus $(MULTUS_CACHE)/.multus
	mv $(MULTUS_CACHE)/.multus $(MULTUS_CACHE)/multus

# The real API server, etcd and kubelet, built where there is Go, once a machine, into ~/.cache/meta-cni-kubernetes.
kubernetes-programs: $(VENV)/.test
	@$(BIN)/python -m tests.k8s.assets

# The newest release, built where there is Go; it is asked for anew only after `make clean`.
REFERENCE := latest
newest-reference: .reference/VERSION

# Beside them, what is no release of a Go module: source:name:package, and the release whose differences are known.
PLUGINS := github.com/containernetworking/plugins
APART_FROM_THEM := https://github.com/openshift/route-override-cni:route-override:cmd/route-override \
	https://github.com/k8snetworkplumbingwg/bond-cni:bond:bond \
	https://github.com/k8snetworkplumbingwg/sriov-cni:sriov:cmd/sriov:v2.10.0
.reference/VERSION:
	@if ! command -v go >/dev/null; then
		echo "no Go here: the newest reference CNI plugins are not built, the distribution's are compared with"
		exit 0
	fi
	echo "building the newest reference CNI plugins ..."
	directory=$(CURDIR)/.reference
	trap 'rm -rf "$$directory/go" "$$directory/build"' EXIT
	export GOPATH=$$directory/go GOCACHE=$$directory/build GOBIN=$$directory/bin GOFLAGS=-modcacherw CGO_ENABLED=0
	if ! go install $(PLUGINS)/plugins/...@$(REFERENCE) 2>$$directory.log; then
		tail -n 3 $$directory.log >&2
		rm -f "$$directory.log"
		echo "the newest reference CNI plugins are not built"
		[ "$${CI:-}" != true ]
		echo "the distribution's are compared with"
		exit 0
	fi
	for each in $(APART_FROM_THEM); do
		IFS=: read -r scheme place name package tag <<<"$$each"
		cloned=$$directory/go/$$name-source
		clone="git clone --quiet --depth 1 $${tag:+--branch $$tag}"
		if GIT_TERMINAL_PROMPT=0 timeout 60 $$clone "$$scheme:$$place" "$$cloned" 2>/dev/null; then
			(cd "$$cloned" && go build -o "$$directory/bin/$$name" "./$$package" 2>/dev/null) || true
		fi
		[ -x "$$directory/bin/$$name" ] || echo "no reference $$name: its tests skip"
	done
	rm -f "$$directory.log"
	go version -m "$$directory/bin/bridge" | awk '$$1 == "mod" { print $$3 }' >$@
