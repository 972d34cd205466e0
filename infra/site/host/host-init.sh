#!/bin/sh
# The first program of a host of the local site, under tini, in its own network, mount, UTS and PID namespaces: makes
# the folders that a machine of its own would have, then keeps the namespaces until it is killed.
#   host-init.sh NAME HOME CONFIG DISK LOGS CACHE
set -eu
name=$1 home=$2 config=$3 disk=$4 logs=$5 cache=$6

mount --make-rprivate /
hostname "$name"
# /sys shows the network devices of the namespace in which it was mounted.
mount -t sysfs sysfs /sys

# Guests have IPv4 alone, and frames between guests of one bridge are not the IP firewall's business. The firewall is
# complete before there is a cable.
# A host that was cut off calls again within seconds of its return: by the kernel's own six tries, the pause before the
# next would have grown to a minute.
sysctl -qew net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 net.ipv4.ip_forward=1 \
  net.bridge.bridge-nf-call-iptables=0 net.ipv4.tcp_syn_retries=3
iptables-restore < "$config/firewall"
iptables -A INPUT -j BERTH-HOST
ip link set lo up

# Everything that comes from the machine is taken hold of before anything covers it.
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
# The machine needn't have these folders, and shall not get them.
mount -t overlay -o lowerdir=/var/lib,upperdir=/mnt/upper,workdir=/mnt/work berth-lib /var/lib
mkdir -p /var/lib/berth /var/lib/libvirt /var/lib/nfs/ganesha
mount --bind /mnt/disk /var/lib/berth
umount /mnt/disk
umount --lazy /mnt
mount -t tmpfs -o mode=711 berth-libvirt /var/lib/libvirt
mkdir /var/lib/libvirt/qemu
mount -t tmpfs -o mode=755 berth-ganesha /var/lib/nfs/ganesha
# Other hosts' disks, the ledger and the keys are no business of this host's.
mount -t tmpfs -o size=16k,mode=700 berth-hidden "$home"
mount -t tmpfs -o mode=755 berth-run /run
mkdir -p /run/lock /run/libvirt /run/rpcbind /run/ganesha /run/berth "$(dirname "$resolv")"
[ -e "$resolv" ] || printf '%s\n' "$dns" > "$resolv"
# A host that starts again has booted, though the machine has not.
cat /proc/sys/kernel/random/uuid > /run/berth/boot_id
mount --bind /run/berth/boot_id /proc/sys/kernel/random/boot_id

: > /run/berth/made
exec sleep infinity
