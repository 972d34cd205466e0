#!/bin/sh
# The first program of a host of the local site, under tini, in its own network, mount, UTS and PID namespaces: makes the
# folders that a dedicated machine would have, then holds the namespaces until it is killed.
#   host-init.sh NAME HOME CONFIG DISK LOGS CACHE [GROUP…]
# GROUP: folders of the control group of its guests, which it has in /run/berth/guests.
set -eu
name=$1 home=$2 config=$3 disk=$4 logs=$5 cache=$6

shift 6
mount --make-rprivate /
# Opened before another sysfs covers them.
[ $# -lt 1 ] || exec 3< "$1"
[ $# -lt 2 ] || exec 4< "$2"
hostname "$name"
# A sysfs mount shows the network devices of the namespace in which it was mounted.
mount -t sysfs sysfs /sys

# Guests have IPv4 alone, and the IP firewall does not filter frames between guests of one bridge. The firewall is
# complete before the host has a network link.
# A disconnected host must reconnect within seconds of its return: with the kernel's default of six SYN retries, the
# interval before the next one would have grown to a minute.
sysctl -qew net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 net.ipv4.ip_forward=1 \
  net.bridge.bridge-nf-call-iptables=0 net.ipv4.tcp_syn_retries=3
iptables-restore < "$config/firewall"
iptables -A INPUT -j BERTH-HOST
ip link set lo up

# Binds everything that comes from the machine before other mounts hide it.
dns=$(cat /run/systemd/resolve/resolv.conf 2>/dev/null || cat /etc/resolv.conf)
resolv=$(readlink -m /etc/resolv.conf)
mount -t tmpfs -o size=1m,mode=700 berth-staging /mnt
mkdir /mnt/disk /mnt/upper /mnt/work
mount --bind "$disk" /mnt/disk
mount --bind "$logs" /var/log
mount --bind "$cache" /var/cache/libvirt
mount --bind "$config/libvirt" /etc/libvirt
mount --bind "$config/ganesha" /etc/ganesha
mount --bind "$config/hosts" /etc/hosts
# The machine may lack these folders, and the overlay avoids creating them there.
mount -t overlay -o lowerdir=/var/lib,upperdir=/mnt/upper,workdir=/mnt/work berth-lib /var/lib
mkdir -p /var/lib/berth /var/lib/libvirt /var/lib/nfs/ganesha
mount --bind /mnt/disk /var/lib/berth
umount /mnt/disk
umount --lazy /mnt
mount -t tmpfs -o mode=711 berth-libvirt /var/lib/libvirt
mkdir /var/lib/libvirt/qemu
mount -t tmpfs -o mode=755 berth-ganesha /var/lib/nfs/ganesha
key=$(cat "$config/host.key")
# Hides other hosts' disks, the ledger and the keys from this host.
mount -t tmpfs -o size=16k,mode=700 berth-hidden "$home"
mount -t tmpfs -o mode=755 berth-run /run
mkdir -p /run/lock /run/libvirt /run/rpcbind /run/ganesha /run/berth "$(dirname "$resolv")"
[ -e "$resolv" ] || printf '%s\n' "$dns" > "$resolv"
(umask 077 && printf '%s\n' "$key" > /run/berth/host.key)
# A restarted host has a new boot id, although the machine has not booted.
cat /proc/sys/kernel/random/uuid > /run/berth/boot_id
mount --bind /run/berth/boot_id /proc/sys/kernel/random/boot_id

number=0
while [ $number -lt $# ]; do
  mkdir -p /run/berth/guests/$number
  mount --no-canonicalize --bind /proc/self/fd/$((number + 3)) /run/berth/guests/$number
  number=$((number + 1))
done
exec 3<&- 4<&-

: > /run/berth/made
exec sleep infinity
