#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs as root in a machine that was booted with the packages installed. The boot loaded the driver; a member of the
# group moves a cache between two network namespaces, others may not use the driver.
set -euo pipefail
export LC_ALL=C

fail() {
	echo "transfer: FAILED: $*"
	exit 1
}

step() {
	echo "transfer: [$(cut -d' ' -f1 /proc/uptime)] $*"
}

step "booted $(uname -r)"
grep '^dmaplane ' /proc/modules || fail "modules-load did not load the driver: $(systemctl status systemd-modules-load)"
udevadm settle
ls -l /dev/dmaplane
[ "$(stat -c '%a %U %G' /dev/dmaplane)" = "660 root dmaplane" ] || fail "the node has another mode, owner or group"

id member >/dev/null 2>&1 || useradd --create-home --groups dmaplane member
id stranger >/dev/null 2>&1 || useradd --create-home stranger
runuser -u stranger -- dmaplane info 2>/tmp/stranger && fail "a stranger may use the driver"
cat /tmp/stranger
grep -q "may not use the device" /tmp/stranger || fail "a stranger gets another error"
runuser -u member -- dmaplane info

step "two namespaces with Soft-RoCE"
modprobe rdma_rxe
for side in 0 1; do
	ip netns add "dp$side"
done
ip link add veth0 netns dp0 type veth peer name veth1 netns dp1
for side in 0 1; do
	inside=(ip netns exec "dp$side")
	"${inside[@]}" sysctl -q -w net.ipv6.conf.all.accept_dad=0 "net.ipv6.conf.veth$side.accept_dad=0"
	"${inside[@]}" ip link set lo up
	"${inside[@]}" ip address add "10.77.0.$((side + 1))/24" dev "veth$side"
	"${inside[@]}" ip link set "veth$side" up
	"${inside[@]}" rdma link add "rxe$side" type rxe netdev "veth$side"
done

step "a transfer by an unprivileged member of the group"
home=$(getent passwd member | cut -d: -f6)
rm -f "$home"/*.kv
runuser -u member -- dmaplane kv sample --out "$home/sample.kv" --layers 4
ip netns exec dp1 runuser -u member -- dmaplane kv recv --listen 10.77.0.2:7472 --out "$home/received.kv" &
receiver=$!
# The sender tries again until the receiver listens.
ip netns exec dp0 runuser -u member -- dmaplane kv send --kv "$home/sample.kv" --to 10.77.0.2:7472 --connect-timeout 60 ||
	fail "nothing was sent"
wait $receiver || fail "nothing was received"
cmp "$home/sample.kv" "$home/received.kv" || fail "the received cache differs from the sent one"
step "the first transfer is done"

modprobe -r dmaplane || fail "the driver is still in use"
[ ! -e /dev/dmaplane ] || fail "the node is left"
if dmesg | grep -E 'WARNING:|BUG:|Oops|Call Trace'; then
	fail "the kernel complains"
fi
step "ok"
