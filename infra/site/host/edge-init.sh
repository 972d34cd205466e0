#!/bin/sh
# The first program of an edge of the local site, as host-init.sh is of a host: makes what a dedicated machine would have, then
# holds the namespaces until it is killed. Takes the same arguments.
set -eu
name=$1 home=$2 config=$3 logs=$5

mount --make-rprivate /
hostname "$name"
mount -t sysfs sysfs /sys

# Its worker makes its rules; before that nothing is forwarded, and nothing but the worker listens.
sysctl -qew net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 net.bridge.bridge-nf-call-iptables=0 \
  net.ipv4.tcp_syn_retries=3
iptables -P FORWARD DROP
ip link set lo up

mount --bind "$logs" /var/log
key=$(cat "$config/edge.key")
# Hides the hosts' disks, the ledger and other machines' keys from this edge.
mount -t tmpfs -o size=16k,mode=700 berth-hidden "$home"
mount -t tmpfs -o mode=755 berth-run /run
mkdir -p /run/lock /run/berth
(umask 077 && printf '%s\n' "$key" > /run/berth/edge.key)

: > /run/berth/made
exec sleep infinity
