#!/bin/busybox sh
# The first process of the virtual machine of scripts/old-kernel.sh. It has the kernel to itself: nothing is cleaned up.
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
# Some servers look their user up.
echo root:x:0:0:root:/:/bin/sh >/etc/passwd
echo root:x:0: >/etc/group
mount -t bpf bpf /sys/fs/bpf
depmod
modprobe -a veth bridge sch_ingress cls_bpf

# This shell would take its own small versions of these.
ip() { /sbin/ip "$@"; }
tc() { /sbin/tc "$@"; }

failed=
# check WHAT COMMAND...: tells whether it succeeds.
check() {
  what=$1
  shift
  if "$@"; then echo "old-kernel: ok: $what"; else echo "old-kernel: FAILED: $what"; failed=1; fi
}

fails() {
  ! "$@"
}

# filters COUNT: each direction of up0 has this many filters of ours.
filters() {
  for direction in ingress egress; do
    [ "$(tc filter show dev up0 $direction | grep -c evenkeel)" = "$1" ] || return 1
  done
}

# run OPTIONS...: `evenkeel run` on up0 until it has printed ready; its process is in $run.
run() {
  : >/tmp/out
  evenkeel run /web --node guest --interface up0 --state-dir /tmp/state --admin unix:/tmp/admin "$@" >/tmp/out 2>>/tmp/log &
  run=$!
  while ! grep -q '^ready$' /tmp/out; do
    kill -0 $run 2>/dev/null || { cat /tmp/log; return 1; }
    sleep 1
  done
}

end() {
  kill $run && wait $run
}

# option NAME: what the kernel's command line has for it, with spaces for commas.
option() {
  sed -n "s/.* $1=\([^ ]*\).*/\1/p" /proc/cmdline | tr , ' '
}

hook_of_run() {
  sed -n 's/.*attached.*hook="\([a-z]*\)".*/\1/p' /tmp/log | tail -n 1
}

uname -srm
ip link set lo up
case $(uname -r | cut -d. -f1,2) in
5.* | 6.[0-5]) hook=clsact ;;
*) hook=tcx ;;
esac

ip netns add client
ip link add up0 type veth peer name eth0 netns client
ip address add 192.168.1.2/24 dev up0
ip link set up0 up
ip -n client address add 192.168.1.10/24 dev eth0
ip -n client link set eth0 up
check "run --hook auto gets ready" run --hook auto
grep attached /tmp/log
check "the log says hook=$hook" [ "$(hook_of_run)" = $hook ]
# One line for each program: the limit is a million. Kernels before 5.16 do not tell.
cat /proc/$run/fdinfo/* | grep verified_insns
[ $hook = tcx ] || check "one clsact filter in each direction" filters 1
check "the VIP answers ARP and ping" ip netns exec client ping -c 3 -W 5 192.168.1.100
evenkeel status --node guest --admin unix:/tmp/admin
check "run ends with 0" end
check "the VIP answers without an agent" ip netns exec client ping -c 3 -W 5 192.168.1.100
if [ $hook = clsact ]; then
  check "a new run replaces the filters" run --hook clsact
  check "still one filter in each direction" filters 1
  check "it ends with 0" end
fi
check "uninstall" evenkeel uninstall --node guest
check "no filter is left" filters 0
if [ $hook = clsact ]; then
  : >/tmp/log
  check "--hook tcx is refused" fails run --hook tcx
  evenkeel uninstall --node guest
fi

# Tests that are about tcx say so in their names.
without=
[ $hook = tcx ] || without="--skip tcx --skip the_other_hook"
options="$(option lab) $without"
check "lab tests $options" env EVENKEEL_BIN=/bin/evenkeel lab --test-threads 1 --color never $options
# demo OPTIONS...: not on the console, where it would draw.
demo() {
  if evenkeel demo "$@" >/tmp/demo 2>&1; then status=0; else status=1; fi
  cat /tmp/demo
  return $status
}
options=$(option demo)
check "demo $options" demo $options
check "demo $options --forwarding stack" demo $options --forwarding stack

[ -n "$failed" ] || echo "old-kernel: passed"
poweroff -f
