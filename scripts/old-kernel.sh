#!/usr/bin/env bash
# Runs the lab tests, `evenkeel run` and `evenkeel demo` on another kernel, in a virtual machine that lives in memory.
# Usage: scripts/old-kernel.sh [KERNEL...]; docs/kernels.md says more.
# KERNEL: names of Debian packages, or .deb files, that together have vmlinuz and its modules
#   [default: the newest linux-image-6.1.*-cloud-amd64 that apt knows].
# Environment: MEMORY (2G), TIME (1200: seconds until the machine is ended), DEMO (options of `evenkeel demo`),
#   LAB (a part of the names of the lab tests to run, and other options of their binary),
#   ACCELERATOR (tcg, which runs everywhere, also inside a virtual machine; kvm is faster).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

step() { printf '==> %s\n' "$*"; }
commas() { printf %s "$1" | tr ' ' ,; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

for pair in qemu-system-x86_64=qemu-system-x86 busybox=busybox-static dpkg-deb=dpkg xz=xz-utils ip=iproute2 tc=iproute2; do
  command -v "${pair%%=*}" >/dev/null || fail "${pair%%=*} is missing: apt-get install --no-install-recommends ${pair#*=}"
done
busybox=$(command -v busybox)
ldd "$busybox" >/dev/null 2>&1 && fail "$busybox is not static: apt-get install --no-install-recommends busybox-static"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,etc,lib/modules} "$work/kernel"

# The kernel.
if [ $# = 0 ]; then
  newest=$(apt-cache pkgnames linux-image-6.1. | grep -E '^linux-image-6\.1\.[0-9-]+-cloud-amd64$' | sort -V | tail -n 1)
  set -- "${newest:?apt knows no linux-image-6.1.*-cloud-amd64: name a kernel package or give .deb files}"
fi
for kernel in "$@"; do
  case $kernel in
  *.deb) dpkg-deb -x "$kernel" "$work/kernel" ;;
  *)
    step "downloading $kernel"
    mkdir -p "$work/$kernel"
    (cd "$work/$kernel" && apt-get download -qq "$kernel" 2>/dev/null) || fail "cannot download $kernel: apt-get update"
    dpkg-deb -x "$work/$kernel"/*.deb "$work/kernel"
    ;;
  esac
done
vmlinuz=$(find "$work/kernel/boot" -name 'vmlinuz-*' | head -n 1)
release=${vmlinuz##*/vmlinuz-}
modules=$(find "$work/kernel" -type d -path "*/lib/modules/$release" | head -n 1)
[ -n "$vmlinuz" ] && [ -n "$modules" ] || fail "no vmlinuz with its modules in: $*"
mkdir -p "$root/lib/modules/$release/kernel/drivers/net"
cp "$modules"/modules.{builtin,order} "$root/lib/modules/$release/"
cp -r "$modules"/kernel/{net,lib} "$root/lib/modules/$release/kernel/"
find "$modules/kernel/drivers/net" -maxdepth 1 \( -name 'veth.ko*' -o -name 'macvlan.ko*' \) -exec cp {} "$root/lib/modules/$release/kernel/drivers/net/" \;
find "$root/lib/modules" -name '*.ko.xz' -exec xz -d {} +
find "$root/lib/modules" -name '*.ko.zst' -exec zstd -dq --rm {} +

# The programs.
step "building"
# The object as committed, whatever toolchain is here.
export EVENKEEL_BPF=committed
# Emulation is slow enough without debug builds.
cargo build --quiet --release --locked --package evenkeel
target=${CARGO_TARGET_DIR:-target}
lab=$(scripts/test-binary.sh evenkeel-lab-tests lab --release)
strip -o "$root/bin/evenkeel" "$target/release/evenkeel"
strip -o "$root/bin/lab" "$lab"
cp "$busybox" "$root/bin/busybox"
cp -r examples/web "$root/web"
# What the tests use, as far as it is installed: those of real clients fail by name without theirs.
for program in ip tc bridge ss ethtool setpriv curl dig dnsmasq iperf3 ping tracepath; do
  if path=$(command -v "$program"); then cp "$path" "$root/sbin/"; fi
done
for file in "$root"/bin/{evenkeel,lab} "$root"/sbin/*; do
  ldd "$file" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root${library%/*}"
    cp -Lu "$library" "$root$library"
  done
done
ln -s ../bin/busybox "$root/sbin/modprobe"
cp scripts/old-kernel-init.sh "$root/init"
chmod +x "$root/init"
(cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initramfs"

# The machine.
accelerator=${ACCELERATOR:-tcg}
step "booting Linux $release ($accelerator)"
log=$target/old-kernel-$release.log
timeout --foreground "${TIME:-1200}" qemu-system-x86_64 -accel "$accelerator" -cpu max -smp 1 -m "${MEMORY:-2G}" \
  -kernel "$vmlinuz" -initrd "$work/initramfs" -nodefaults -nographic -serial stdio -no-reboot </dev/null \
  -append "console=ttyS0 quiet panic=-1 oops=panic lab=$(commas "${LAB:-}") demo=$(commas "${DEMO:---duration 30s --rate 5}")" |
  sed -u 's/\x1b\[[0-9;?]*[a-zA-Z]//g; s/\x1bc//g; s/\r//g' | tee "$log" || true
grep -q '^old-kernel: passed' "$log" || fail "Linux $release: not everything passed; the console's output is in $log"
